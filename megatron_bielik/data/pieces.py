"""One piece of preprocessing, done by a worker process: read, encode, write a small shard, then its done marker.

The marker is a JSON file with the piece's statistics. It appears, by renaming, after the shard is on disk, so a piece is
done exactly when its marker can be read; whatever else a killed run leaves behind is written anew.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from megatron_bielik.data.encode import (
    Encoder,
    EncoderName,
    TokenizerFiles,
    differences,
    load_encoders,
    load_tokenizer,
    sample_of,
)
from megatron_bielik.data.errors import DataError
from megatron_bielik.data.inputs import Piece, TxtSplit
from megatron_bielik.data.manifest import write_json
from megatron_bielik.data.processes import follow_parent
from megatron_bielik.data.readers import line_number, read_piece
from megatron_bielik.data.shards import ShardReader, ShardWriter

_BAD_KEPT = 100  # bad records told by name per piece; all are counted
WORDS_EVERY = (
    32  # words are counted in every so-manieth document of a piece: in all of them it would take a fifth of the time
)


@dataclass(frozen=True)
class PieceOptions:
    """What a worker has to know; see preprocess.PreprocessOptions."""

    folder: Path
    json_key: str
    txt_split: TxtSplit
    append_eod: bool
    on_error: Literal["skip", "fatal"]
    encoder: EncoderName


@dataclass
class PieceResult:
    """Statistics of a finished piece.

    Attributes:
        documents: Documents written.
        empty: Documents without a token, left out.
        tokens: Tokens written, end-of-document tokens included.
        text_bytes: UTF-8 bytes of the texts.
        special_tokens: Special tokens that stood in the texts.
        bad: Bad lines or rows.
        records: Lines or rows of each part.
        bad_records: The first bad ones: part, number from 0 within the part, reason.
        sampled_documents, sampled_words, sampled_tokens: Every WORDS_EVERY-th document of the piece, the white-space words
            in them, and their tokens without end-of-document tokens.
        fell_back: A document for which gigatoken gave other IDs, so that the piece was encoded by tokenizers.
    """

    documents: int = 0
    empty: int = 0
    tokens: int = 0
    text_bytes: int = 0
    special_tokens: int = 0
    bad: int = 0
    records: list[int] = field(default_factory=list)
    bad_records: list[tuple[int, int, str]] = field(default_factory=list)
    sampled_documents: int = 0
    sampled_words: int = 0
    sampled_tokens: int = 0
    fell_back: str | None = None


def append_token(
    flat: npt.NDArray[np.uint32], lengths: npt.NDArray[np.int64], token: int
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """Put a token after every document. flat: [tokens], lengths: [documents]."""
    longer = lengths + 1
    last = np.cumsum(longer) - 1
    result = np.empty(len(flat) + len(lengths), dtype=np.uint32)
    inner = np.ones(len(result), dtype=bool)
    inner[last] = False
    result[inner] = flat
    result[last] = token
    return result, longer


class PieceWorker:
    """Encodes pieces one after another with one encoder."""

    def __init__(self, files: TokenizerFiles, options: PieceOptions) -> None:
        self.files = files
        self.options = options
        encoders = load_encoders(files, options.encoder)
        self.encoder, self.reference, self.reason = encoders.used, encoders.reference, encoders.reason
        self.is_special = np.zeros(files.vocab_size, dtype=bool)
        self.is_special[list(files.special_ids)] = True

    def run(self, piece: Piece) -> PieceResult:
        """Encode one piece into options.folder and mark it done.

        Raises:
            DataError: A bad line under on_error fatal, a damaged input, a failed write, or gigatoken, asked for by name,
            differs from the reference.
        """
        result = PieceResult(records=[0] * len(piece.parts))
        encoder = None
        with ShardWriter(self.options.folder / piece.name, self.files.vocab_size) as writer:
            for batch in read_piece(piece, self.options.json_key, self.options.txt_split):
                result.records[batch.part] += batch.records
                for bad in batch.bad:
                    self._count_bad(piece, result, bad.part, bad.number, bad.reason)
                if not batch.texts:
                    continue
                if encoder is None:
                    encoder = self._checked_encoder(batch.texts, result)
                self._write(writer, encoder, batch.texts, result)
        write_marker(self.options.folder / piece.name, result)
        return result

    def _checked_encoder(self, texts: Sequence[bytes], result: PieceResult) -> Encoder:
        """The encoder for a piece: compared with the reference on the beginning of its first documents."""
        if self.encoder is self.reference:
            return self.encoder
        wrong = differences(self.encoder, self.reference, sample_of(texts))
        if wrong is None:
            return self.encoder
        if self.options.encoder == "gigatoken":
            raise DataError(
                f"--encoder is gigatoken, but it gives other IDs for {wrong.decode()[:60]!r}; use auto or tokenizers"
            )
        result.fell_back = wrong.decode()[:60]
        return self.reference

    def _write(self, writer: ShardWriter, encoder: Encoder, texts: Sequence[bytes], result: PieceResult) -> None:
        flat, lengths = encoder.encode(texts)
        # By place among the documents that reached the tokenizer, so that batches do not matter.
        first = -(result.documents + result.empty) % WORDS_EVERY
        result.sampled_documents += len(texts[first::WORDS_EVERY])
        result.sampled_words += sum(len(text.decode().split()) for text in texts[first::WORDS_EVERY])
        result.sampled_tokens += int(lengths[first::WORDS_EVERY].sum())
        result.text_bytes += sum(map(len, texts))
        result.special_tokens += int(np.count_nonzero(self.is_special[flat]))
        kept = lengths[lengths > 0]
        result.empty += len(lengths) - len(kept)
        if self.options.append_eod:
            flat, kept = append_token(flat, kept, self.files.eos_id)
        writer.add_batch(flat, kept)
        result.documents += len(kept)
        result.tokens += len(flat)

    def _count_bad(self, piece: Piece, result: PieceResult, part: int, number: int, reason: str) -> None:
        if self.options.on_error == "fatal":
            source = piece.parts[part]
            kind = "row" if source.format == "parquet" else "line"
            place = f"{source.path}, {kind} {line_number(source, number)}"
            raise DataError(f"{place}: {reason}; mend it, or skip such with --on-error skip")
        result.bad += 1
        if len(result.bad_records) < _BAD_KEPT:
            result.bad_records.append((part, number, reason))


def write_marker(prefix: Path, result: PieceResult) -> None:
    """Mark a piece as done."""
    write_json(Path(f"{prefix}.json"), asdict(result))


def read_marker(prefix: Path) -> PieceResult | None:
    """Statistics of a finished piece; None when it has to be done (again)."""
    try:
        result = PieceResult(**json.loads(Path(f"{prefix}.json").read_text(encoding="utf-8")))
        shard = ShardReader(prefix)
    except (OSError, ValueError, TypeError):
        return None
    return result if (len(shard), shard.num_tokens) == (result.documents, result.tokens) else None


_setup: tuple[str, str, PieceOptions] | None = None  # of this worker process; a pool's tasks can find their state
_worker: PieceWorker | None = None  # nowhere else


def set_up(tokenizer: str, fingerprint: str, options: PieceOptions) -> None:
    """Say what this process's pieces are made with: tokenizer's folder and fingerprint, and options.

    Nothing is loaded yet: a task can report what goes wrong with that, and megabytes of tokenizer sent to a process that
    is starting would make the next one wait for it.
    """
    global _setup, _worker
    _setup, _worker = (tokenizer, fingerprint, options), None


def tear_down() -> None:
    """Forget the encoders, and free their memory."""
    global _setup, _worker
    _setup = _worker = None


def start_worker(tokenizer: str, fingerprint: str, options: PieceOptions) -> None:
    """Initializer of a worker process; see set_up."""
    follow_parent()
    set_up(tokenizer, fingerprint, options)


def _this_worker() -> PieceWorker:
    global _worker
    if _setup is None:
        raise RuntimeError("a task needs set_up or start_worker first")
    if _worker is None:
        tokenizer, fingerprint, options = _setup
        files = load_tokenizer(tokenizer)
        if files.fingerprint != fingerprint:
            raise DataError(f"--tokenizer {tokenizer} was changed while it was being used; run the same command again")
        _worker = PieceWorker(files, options)
    return _worker


def encoder_chosen() -> tuple[str, str]:
    """A worker process's first task: name of the encoder, and why it was chosen. Every worker chooses the same."""
    worker = _this_worker()
    return worker.encoder.name, worker.reason


def run_piece(piece: Piece) -> PieceResult:
    """A worker process's task."""
    return _this_worker().run(piece)
