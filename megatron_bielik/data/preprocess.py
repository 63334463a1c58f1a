"""Text files to token shards: plans pieces, has worker processes encode them, and joins the pieces in input order.

Every finished piece stays on disk in PREFIX.pieces/, so a run that was killed goes on where it was when started again
with the same command. The result is the same to the byte, whatever the number of workers and interruptions.
Results: PREFIX.bin and PREFIX.idx (see shards.py), or PREFIX-00000.bin and so on; then PREFIX.json with the statistics,
and last of all PREFIX.manifest.json (see manifest.py).
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from megatron_bielik.data.encode import EncoderName, TokenizerFiles, load_tokenizer
from megatron_bielik.data.errors import DataError
from megatron_bielik.data.inputs import InputFile, Piece, TxtSplit, default_piece_bytes, find_inputs, plan_pieces
from megatron_bielik.data.join import NAMES_FILE, document_tokens, join_pieces, shard_names
from megatron_bielik.data.manifest import Manifest, manifest_path, read_manifest, write_json, write_manifest
from megatron_bielik.data.pieces import (
    PieceOptions,
    PieceResult,
    encoder_chosen,
    read_marker,
    run_piece,
    set_up,
    start_worker,
    tear_down,
)
from megatron_bielik.data.processes import locked
from megatron_bielik.data.progress import ThroughputProgress
from megatron_bielik.data.shards import bin_path, idx_path, token_dtype

_FORMAT = 2  # of the pieces folder; another number makes old pieces unusable


@dataclass(frozen=True)
class PreprocessOptions:
    """What is done. See tools/preprocess_data.py --help for the options by name.

    Args:
        inputs: Files and patterns.
        tokenizer: Hugging Face folder with tokenizer.json.
        output_prefix: Path of the shard without .bin/.idx; its folder is made if there is none.
        workers: Encoding processes; one works in this process.
        json_key: Key of the text in JSON lines, column of parquet files; a.b is the field b of the object under a.
        append_eod: Put the eos token after every document.
        on_error: What a bad line does: it is counted and skipped, or ends the run.
        max_bad_share: Share of bad records above which there is no result.
        piece_bytes: Input bytes of one piece: work lost when killed; None is 16 to 64 MB, for inputs as large as these.
        txt_split: A txt file is one document, or blank lines separate documents.
        encoder: auto takes gigatoken if it agrees with the Hugging Face tokenizer.
        shard_tokens: The most tokens of a shard, unless one document has more; None for a single shard.
        overwrite: Replace a result or unfinished pieces made with other inputs or options.
    """

    inputs: tuple[str, ...]
    tokenizer: str
    output_prefix: str
    workers: int = 1
    json_key: str = "text"
    append_eod: bool = True
    on_error: Literal["skip", "fatal"] = "skip"
    max_bad_share: float = 0.1
    piece_bytes: int | None = None
    txt_split: TxtSplit = "file"
    encoder: EncoderName = "auto"
    shard_tokens: int | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class Summary:
    """Contents of PREFIX.json.

    Attributes:
        documents, tokens: In all shards; tokens include the end-of-document tokens.
        empty_documents, bad_records: Left out.
        special_tokens_in_text: Special tokens that stood in the texts.
        text_bytes: UTF-8 bytes of the texts.
        bytes_per_token: Of text, end-of-document tokens not counted; 0 without tokens.
        tokens_per_word_sampled: Fertility: tokens per white-space word, end-of-document tokens not counted, over every
            32nd document of each piece; 0 without words.
        sampled_documents, sampled_words, sampled_tokens: What that was computed from.
        document_tokens: Quantiles of the tokens per document (join.document_tokens).
        encoder: Library that made the IDs; both make the same.
        shards: Names of the shards.
        inputs: Path and bytes of every input.
        first_bad_records: File, line and reason of the first thousand.
        fingerprint: All that the shards depend on.
    """

    documents: int
    tokens: int
    empty_documents: int
    bad_records: int
    special_tokens_in_text: int
    text_bytes: int
    bytes_per_token: float
    tokens_per_word_sampled: float
    sampled_documents: int
    sampled_words: int
    sampled_tokens: int
    document_tokens: dict[str, float]
    dtype: str
    append_eod: bool
    eod_id: int
    eod_token: str
    vocab_size: int
    tokenizer: str
    tokenizer_sha256: str
    encoder: str
    shards: list[str]
    inputs: list[dict[str, Any]]
    first_bad_records: list[str]
    fingerprint: dict[str, Any]


def preprocess(options: PreprocessOptions, say: Callable[[str], None] = lambda _: None) -> Summary:
    """Make the shards, or go on making them.

    Args:
        options: What to do.
        say: Takes lines for the user.

    Raises:
        DataError: Inputs, tokenizer or options that cannot be used; no usable document, or too many bad records; a full
            disk; a result of other options in the way.
    """
    _check(options)
    prefix, folder = Path(options.output_prefix), Path(f"{options.output_prefix}.pieces")
    inputs = find_inputs(options.inputs)
    if options.piece_bytes is None:
        options = replace(options, piece_bytes=default_piece_bytes(inputs))
    files = load_tokenizer(options.tokenizer)
    work = _work(options, inputs, files)
    fingerprint = {**work, "shard_tokens": options.shard_tokens}
    finished = _finished(options, fingerprint)
    if finished is not None:
        _refuse_if_bad(
            options, finished.documents, finished.empty_documents, finished.bad_records, finished.first_bad_records
        )
        shutil.rmtree(folder, ignore_errors=True)
        say(f"{prefix} is complete already; nothing to do")
        return finished
    with _pieces_folder(folder, work, options.overwrite):
        piece_options = PieceOptions(
            folder, options.json_key, options.txt_split, options.append_eod, options.on_error, options.encoder
        )
        pieces, results, encoder = _run_all(options, inputs, files, piece_options, say)
        bad = _bad_lines(inputs, pieces, results)
        documents, empty, bad_records = (
            sum(getattr(r, name) for r in results) for name in ("documents", "empty", "bad")
        )
        if not documents:  # so that the same command with another key can begin
            _clear(folder)
        _refuse_if_bad(options, documents, empty, bad_records, bad)
        names = [folder / piece.name for piece in pieces]
        entries = join_pieces(prefix, names, folder, files.vocab_size, options.shard_tokens, options.workers)
        manifest = Manifest(
            shards=tuple(entries),
            documents=sum(entry.documents for entry in entries),
            tokens=sum(entry.tokens for entry in entries),
            dtype=token_dtype(files.vocab_size).__name__,
            vocab_size=files.vocab_size,
            append_eod=options.append_eod,
            eod_id=files.eos_id,
            eod_token=files.eos_token,
            tokenizer=Path(files.folder).resolve().name,
            tokenizer_sha256=files.fingerprint,
            shard_tokens=options.shard_tokens,
            inputs=[{"path": source.path, "bytes": source.size} for source in inputs],
        )
        summary = _summarize(manifest, prefix.parent, fingerprint, encoder, results, bad)
        write_json(Path(f"{prefix}.json"), asdict(summary))
        write_manifest(prefix, manifest)
    shutil.rmtree(folder, ignore_errors=True)
    return summary


def _check(options: PreprocessOptions) -> None:
    if options.workers < 1:
        raise DataError(f"--workers is {options.workers}, needs at least 1")
    if options.piece_bytes is not None and options.piece_bytes < 1:
        raise DataError(f"--piece-megabytes gives {options.piece_bytes} bytes, needs a positive size")
    if not 0 <= options.max_bad_share <= 1:
        raise DataError(f"--max-bad-share is {options.max_bad_share:g}, needs 0 to 1")
    if options.shard_tokens is not None and options.shard_tokens < 1:
        raise DataError(f"--shard-tokens is {options.shard_tokens}, needs at least 1")


def _refuse_if_bad(options: PreprocessOptions, documents: int, empty: int, bad: int, first_bad: list[str]) -> None:
    """No shard is made of nothing, or of what is left where most was bad."""
    records, first = documents + empty + bad, f"; first: {first_bad[0]}" if first_bad else ""
    if not documents:
        raise DataError(
            f"--input holds no document with a token: {bad:,} bad records, {empty:,} empty ones{first}; is --json-key "
            f"{options.json_key!r} right?"
        )
    if bad > options.max_bad_share * records:
        raise DataError(
            f"{bad:,} of {records:,} records are bad, more than --max-bad-share {options.max_bad_share:g}{first}; mend them, "
            "or run the same command with a larger --max-bad-share (finished pieces are kept)"
        )


def _work(options: PreprocessOptions, inputs: list[InputFile], files: TokenizerFiles) -> dict[str, Any]:
    """All that the pieces depend on. (on_error is no part of it: it matters only where there are bad records.)"""
    assert options.piece_bytes is not None
    return {
        "format": _FORMAT,
        "inputs": [[source.path, source.size, source.mtime_ns] for source in inputs],
        "tokenizer": files.fingerprint,
        "json_key": options.json_key,
        "append_eod": options.append_eod,
        "piece_megabytes": options.piece_bytes / 1e6,
        "txt_split": options.txt_split,
    }


def _changed(old: object, new: dict[str, Any]) -> str:
    if not isinstance(old, dict):
        return "everything"
    return ", ".join(key for key in new if old.get(key) != new[key])


def _finished(options: PreprocessOptions, fingerprint: dict[str, Any]) -> Summary | None:
    """The result of an earlier, complete run of the same work. Raises DataError if another result is in the way."""
    prefix = Path(options.output_prefix)
    first = prefix.parent / shard_names(prefix, 1, options.shard_tokens or 1)[0]
    there = [path for path in (idx_path(prefix), idx_path(first), manifest_path(prefix)) if path.exists()]
    if not there:
        return None
    try:
        old = json.loads(Path(f"{prefix}.json").read_text(encoding="utf-8"))
        changed = _changed(old["fingerprint"], fingerprint)
        if not changed and manifest_path(prefix).exists():
            if _is_complete(prefix):
                summary = Summary(**old)
                return None if summary.bad_records and options.on_error == "fatal" else summary
            changed = "a file is missing or has another size"
        elif not changed:  # killed just before the manifest
            return None
    except FileNotFoundError:
        # Killed between the shards and their statistics: the pieces are still there, unless the shard is somebody else's.
        if Path(f"{prefix}.pieces").is_dir():
            return None
        changed = "its origin is not known"
    except (OSError, ValueError, KeyError, TypeError):
        changed = "it cannot be read"
    if options.overwrite:
        return None
    shown = bin_path(there[0].with_suffix("")) if there[0].suffix == ".idx" else there[0]
    raise DataError(
        f"{shown} exists and was made from something else ({changed}); "
        "give another --output-prefix, or --overwrite to replace it"
    )


def _is_complete(prefix: Path) -> bool:
    """All shards of the manifest are there, in the sizes it says."""
    for entry in read_manifest(manifest_path(prefix)).shards:
        for path, size in (
            (bin_path(prefix.parent / entry.name), entry.bin_bytes),
            (idx_path(prefix.parent / entry.name), entry.idx_bytes),
        ):
            if not path.is_file() or path.stat().st_size != size:
                return False
    return True


def _clear(folder: Path) -> None:
    """Remove all pieces."""
    for path in folder.iterdir():
        if path.name not in ("lock", NAMES_FILE):
            path.unlink()


@contextmanager
def _pieces_folder(folder: Path, fingerprint: dict[str, Any], overwrite: bool) -> Iterator[None]:
    """The folder of pieces, for this process alone, empty or with pieces of the same work."""
    with locked(folder, "give another --output-prefix"):
        state = folder / "work.json"
        try:
            old = json.loads(state.read_text(encoding="utf-8"))
        except FileNotFoundError:
            old = None
        except ValueError:
            old = "unreadable"
        if old is not None and old != fingerprint:
            if not overwrite:
                raise DataError(
                    f"{folder} holds pieces of other work (changed: {_changed(old, fingerprint)}); "
                    "give the same inputs and options to go on, or --overwrite to begin anew"
                )
            _clear(folder)
            old = None
        if old is None:
            strangers = sorted({path.name for path in folder.iterdir()} - {"lock", "work.json.tmp", NAMES_FILE})
            if strangers:
                raise DataError(
                    f"{folder} holds {strangers[0]}, which is not of this tool; give another --output-prefix"
                )
            write_json(state, fingerprint)
        yield


def _run_all(
    options: PreprocessOptions,
    inputs: list[InputFile],
    files: TokenizerFiles,
    piece_options: PieceOptions,
    say: Callable[[str], None],
) -> tuple[list[Piece], list[PieceResult], str]:
    """Do all pieces that are not done yet; returns them in input order, without their blocks of text, and the encoder."""
    pieces: list[Piece] = []
    results: dict[str, PieceResult] = {}
    running: dict[Future[PieceResult], Piece] = {}
    told, warned = False, False
    # Blocks of compressed files travel with their piece: no more of them in flight than can soon be worked on.
    most = options.workers + 1 if options.workers > 1 else 1

    def collect() -> None:
        nonlocal warned
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            piece = running.pop(future)
            result = results[piece.name] = future.result()
            if result.fell_back is not None:
                say(f"piece {piece.name}: encoded by tokenizers, as gigatoken gives other IDs for {result.fell_back!r}")
            if result.bad and not result.documents and not warned:
                (_, _, reason), warned = result.bad_records[0], True
                say(
                    f"piece {piece.name}: none of its {result.bad:,} records can be used ({reason}); is --json-key right?"
                )
            progress.add(piece.size, result.tokens)

    with (
        ThroughputProgress(sum(source.size for source in inputs)) as progress,
        _pool(options.workers, files, piece_options) as pool,
    ):
        try:
            choice = pool.submit(encoder_chosen)
            for piece in plan_pieces(inputs, options.piece_bytes or 0, options.txt_split):
                pieces.append(_without_text(piece))
                known = read_marker(piece_options.folder / piece.name)
                if known is not None and not (known.bad and options.on_error == "fatal"):
                    results[piece.name] = known
                    progress.skip(piece.size)
                    continue
                running[pool.submit(run_piece, piece)] = pieces[-1]
                del piece
                if not told and choice.done():
                    say(choice.result()[1])
                    told = True
                while len(running) >= most:
                    collect()
            while running:
                collect()
            encoder, reason = choice.result()
            if not told:
                say(reason)
        except BrokenProcessPool as error:
            raise DataError(
                "a worker process died, perhaps for want of memory; run the same command again with fewer --workers: "
                "finished pieces are kept, unless --piece-megabytes is changed"
            ) from error
        except BaseException:
            for future in running:
                future.cancel()
            raise
    return pieces, [results[piece.name] for piece in pieces], encoder


def _without_text(piece: Piece) -> Piece:
    """A piece without its blocks, which would otherwise stay in memory to the end."""
    return replace(piece, parts=tuple(replace(part, block=None) for part in piece.parts))


class _InProcess(Executor):
    """Runs each task at once, in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        tear_down()


def _pool(workers: int, files: TokenizerFiles, options: PieceOptions) -> Executor:
    args = (files.folder, files.fingerprint, options)
    if workers == 1:
        set_up(*args)
        return _InProcess()
    # spawn: a forked child would inherit the threads' locks of the libraries loaded here.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=start_worker, initargs=args)


def _bad_lines(inputs: list[InputFile], pieces: list[Piece], results: list[PieceResult]) -> list[str]:
    """File, line in the whole file and reason of the bad records that are told by name."""
    told, seen = [], [0] * len(inputs)
    for piece, result in zip(pieces, results, strict=True):
        for part, number, reason in result.bad_records:
            source = piece.parts[part]
            before = seen[source.input] + sum(
                count
                for other, count in zip(piece.parts[:part], result.records[:part], strict=True)
                if other.input == source.input
            )
            kind = "row" if source.format == "parquet" else "line"
            told.append(f"{source.path}, {kind} {before + number + 1}: {reason}")
        for source, count in zip(piece.parts, result.records, strict=True):
            seen[source.input] += count
    return told


def _summarize(
    manifest: Manifest,
    folder: Path,
    fingerprint: dict[str, Any],
    encoder: str,
    results: list[PieceResult],
    bad_lines: list[str],
) -> Summary:
    text_bytes = sum(result.text_bytes for result in results)
    words, tokens = (sum(getattr(r, name) for r in results) for name in ("sampled_words", "sampled_tokens"))
    of_text = manifest.tokens - (manifest.documents if manifest.append_eod else 0)
    return Summary(
        documents=manifest.documents,
        tokens=manifest.tokens,
        empty_documents=sum(result.empty for result in results),
        bad_records=sum(result.bad for result in results),
        special_tokens_in_text=sum(result.special_tokens for result in results),
        text_bytes=text_bytes,
        bytes_per_token=text_bytes / of_text if of_text else 0.0,
        tokens_per_word_sampled=tokens / words if words else 0.0,
        sampled_documents=sum(result.sampled_documents for result in results),
        sampled_words=words,
        sampled_tokens=tokens,
        document_tokens=document_tokens([folder / entry.name for entry in manifest.shards]),
        dtype=manifest.dtype,
        append_eod=manifest.append_eod,
        eod_id=manifest.eod_id,
        eod_token=manifest.eod_token,
        vocab_size=manifest.vocab_size,
        tokenizer=manifest.tokenizer,
        tokenizer_sha256=manifest.tokenizer_sha256,
        encoder=encoder,
        shards=[entry.name for entry in manifest.shards],
        inputs=manifest.inputs,
        first_bad_records=bad_lines[:1000],
        fingerprint=fingerprint,
    )
