"""How well tokenizers fit texts: counts, rates and speed of every tokenizer on every text.

A word is a run of characters between Unicode white space, what str.split() gives. Tokens per word over whole texts is the
fertility of tokenizer papers; punctuation belongs to the word it touches. Byte tokens tell how much text the vocabulary has
no characters for. Line ends are left out of them and counted apart: in vocabularies like Llama's they are always bytes.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer

from megatron_bielik.tokenizer.sample import find_files, read_blocks, read_records
from megatron_bielik.tokenizer.sentencepiece_model import LINE_ENDS, TokenizerError
from megatron_bielik.tokenizer.vocabulary import read_vocabulary

_CHUNK = 1 << 16  # bytes of a txt file encoded as one text
_BATCH = 64

Encode = Callable[[list[str]], list[list[int]]]


@dataclass(frozen=True)
class LoadedTokenizer:
    """A tokenizer to compare.

    Attributes:
        name: What to call it.
        library: What encodes: tokenizers or sentencepiece.
        entries: Size of the vocabulary, added tokens included.
        unknown: Id of the unknown token; None where there is none.
        byte_ids: Ids of <0xNN>, or in a byte-level vocabulary of tokens that are not UTF-8 alone; line ends left out.
        line_end_ids: Ids of <0x0A> and <0x0D>.
        encode: Texts to ids, one thread, without tokens put around a text.
    """

    name: str
    library: str
    entries: int
    unknown: int | None
    byte_ids: frozenset[int]
    line_end_ids: frozenset[int]
    encode: Encode


@dataclass(frozen=True)
class Text:
    """Documents to encode, under a name."""

    name: str
    documents: tuple[str, ...]


@dataclass(frozen=True)
class Measurement:
    """One tokenizer on one text; rates are shares of the tokens, speed is in millions of UTF-8 bytes per second."""

    tokenizer: str
    text: str
    library: str
    entries: int
    bytes: int
    characters: int
    words: int
    tokens: int
    unknown_tokens: int
    byte_tokens: int
    line_end_tokens: int
    megabytes_per_second: float

    @property
    def characters_per_token(self) -> float:
        return self.characters / max(self.tokens, 1)

    @property
    def tokens_per_word(self) -> float:
        return self.tokens / max(self.words, 1)

    @property
    def unknown_rate(self) -> float:
        return self.unknown_tokens / max(self.tokens, 1)

    @property
    def byte_rate(self) -> float:
        return self.byte_tokens / max(self.tokens, 1)

    def as_dict(self) -> dict[str, Any]:
        """Counts and rates by name."""
        rates = ("characters_per_token", "tokens_per_word", "unknown_rate", "byte_rate")
        return asdict(self) | {name: getattr(self, name) for name in rates}


def load_tokenizer(name: str, folder: Path) -> LoadedTokenizer:
    """Read a folder with tokenizer.json, or with tokenizer.model alone.

    Raises:
        TokenizerError: Neither is there, or it cannot be read.
        VocabularyError: tokenizer.json is damaged or of an unknown kind.
    """
    if (folder / "tokenizer.json").is_file():
        return _load_fast(name, folder)
    path = folder / "tokenizer.model"
    if not path.is_file():
        raise TokenizerError(
            f"--tokenizer {folder}: no tokenizer.json and no tokenizer.model in it; give another folder"
        )
    try:
        processor = SentencePieceProcessor(model_proto=path.read_bytes())
    except RuntimeError as error:
        raise TokenizerError(f"{path} cannot be read as a SentencePiece model: {str(error).splitlines()[0]}") from error
    ids = range(processor.get_piece_size())
    line_ends = frozenset(processor.piece_to_id(piece) for piece in LINE_ENDS)
    return LoadedTokenizer(
        name,
        "sentencepiece",
        len(ids),
        processor.unk_id(),
        frozenset(number for number in ids if processor.is_byte(number)) - line_ends,
        line_ends,
        lambda texts: processor.encode(texts, num_threads=1),
    )


def _load_fast(name: str, folder: Path) -> LoadedTokenizer:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # speed is of one thread
    path = folder / "tokenizer.json"
    vocabulary = read_vocabulary(folder)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise TokenizerError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    partial = {number for number, data in enumerate(vocabulary.data) if data is not None and not _is_text(data)}
    line_ends = frozenset(number for number in vocabulary.byte_pieces if vocabulary.tokens[number] in LINE_ENDS)
    unknown = vocabulary.roles.get("unk")
    if unknown is None and getattr(tokenizer.model, "unk_token", None):
        unknown = tokenizer.token_to_id(tokenizer.model.unk_token)

    def encode(texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    return LoadedTokenizer(
        name,
        "tokenizers",
        tokenizer.get_vocab_size(with_added_tokens=True),
        unknown,
        (vocabulary.byte_pieces | partial) - line_ends,
        line_ends,
        encode,
    )


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def read_text(name: str, pattern: str, max_bytes: int, json_key: str = "text") -> Text:
    """The beginning of the files that a pattern names: documents of jsonl and parquet, txt in runs of whole lines.

    Raises:
        TokenizerError: No such file, an unknown suffix, or no text in it.
        DataError: A damaged file.
    """
    documents, size = list[str](), 0
    for path in find_files(pattern):
        is_txt = path.endswith((".txt", ".txt.gz", ".txt.zst"))
        for data in _chunks(path) if is_txt else (text for texts, _ in read_records(path, json_key) for text in texts):
            documents.append(data[: max_bytes - size].decode(errors="ignore"))
            size += len(data)
            if size >= max_bytes:
                return Text(name, tuple(documents))
    if not size:
        raise TokenizerError(f"--text {pattern}: no text in it; name another file, or the right --json-key")
    return Text(name, tuple(documents))


def _chunks(path: str) -> list[bytes]:
    chunks, lines, size = list[bytes](), list[bytes](), 0
    for line in b"".join(read_blocks(path)).splitlines(keepends=True):
        lines.append(line)
        size += len(line)
        if size >= _CHUNK:
            chunks.append(b"".join(lines))
            lines, size = [], 0
    return [*chunks, b"".join(lines)] if lines else chunks


def compare(
    tokenizers: Sequence[LoadedTokenizer],
    texts: Sequence[Text],
    rounds: int = 3,
    advance: Callable[[int], object] | None = None,
) -> list[Measurement]:
    """Every tokenizer on every text, text by text; speed is the best of the rounds.

    Args:
        tokenizers, texts: What to compare.
        rounds: How often a text is encoded for its speed.
        advance: Told how many more bytes of text were encoded.
    """
    result = []
    for text in texts:
        batches = [list(text.documents[at : at + _BATCH]) for at in range(0, len(text.documents), _BATCH)]
        size = sum(len(document.encode()) for document in text.documents)
        for tokenizer in tokenizers:
            best = float("inf")
            for _ in range(rounds):
                begun = time.perf_counter()
                encoded = [tokenizer.encode(batch) for batch in batches]
                best = min(best, time.perf_counter() - begun)
                if advance is not None:
                    advance(size)
            counts = Counter(token for batch in encoded for ids in batch for token in ids)
            result.append(
                Measurement(
                    tokenizer=tokenizer.name,
                    text=text.name,
                    library=tokenizer.library,
                    entries=tokenizer.entries,
                    bytes=size,
                    characters=sum(map(len, text.documents)),
                    words=sum(len(document.split()) for document in text.documents),
                    tokens=counts.total(),
                    unknown_tokens=0 if tokenizer.unknown is None else counts[tokenizer.unknown],
                    byte_tokens=sum(counts[token] for token in tokenizer.byte_ids),
                    line_end_tokens=sum(counts[token] for token in tokenizer.line_end_ids),
                    megabytes_per_second=size / 1e6 / best,
                )
            )
    return result
