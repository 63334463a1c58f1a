"""Text files to one token shard: plans pieces, has worker processes encode them, and joins the pieces in input order.

Every finished piece stays on disk in PREFIX.pieces/, so a run that was killed goes on where it was when started again
with the same command. The result is the same to the byte, whatever the number of workers and interruptions.
Results: PREFIX.bin, PREFIX.idx (see shards.py) and PREFIX.json with the statistics, written last.
"""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from megatron_bielik.data.encode import EncoderName, TokenizerFiles, choose_encoder, load_tokenizer
from megatron_bielik.data.errors import DataError, write_error
from megatron_bielik.data.inputs import InputFile, Piece, TxtSplit, find_inputs, plan_pieces
from megatron_bielik.data.pieces import (
    PieceOptions,
    PieceResult,
    PieceWorker,
    read_marker,
    run_piece,
    start_worker,
    write_json,
)
from megatron_bielik.data.progress import ThroughputProgress
from megatron_bielik.data.shards import ShardReader, ShardWriter, bin_path, idx_path

_FORMAT = 1  # of the pieces folder; another number makes old pieces unusable


@dataclass(frozen=True)
class PreprocessOptions:
    """What is done. See tools/preprocess_data.py --help for the options by name.

    Args:
        inputs: Files and patterns.
        tokenizer: Hugging Face folder with tokenizer.json.
        output_prefix: Path of the shard without .bin/.idx.
        workers: Encoding processes; one works in this process.
        json_key: Key of the text in JSON lines, column of parquet files.
        append_eod: Put the eos token after every document.
        on_error: What a bad line does: it is counted and skipped, or ends the run.
        piece_bytes: Input bytes of one piece: memory per worker and work lost when killed.
        txt_split: A txt file is one document, or blank lines separate documents.
        encoder: auto takes gigatoken if it agrees with the Hugging Face tokenizer.
        overwrite: Replace a result or unfinished pieces made with other inputs or options.
    """

    inputs: tuple[str, ...]
    tokenizer: str
    output_prefix: str
    workers: int = 1
    json_key: str = "text"
    append_eod: bool = True
    on_error: Literal["skip", "fatal"] = "skip"
    piece_bytes: int = 64_000_000
    txt_split: TxtSplit = "file"
    encoder: EncoderName = "auto"
    overwrite: bool = False


@dataclass(frozen=True)
class Summary:
    """Contents of PREFIX.json."""

    documents: int
    tokens: int
    empty_documents: int
    bad_records: int
    special_tokens_in_text: int
    text_bytes: int
    dtype: str
    append_eod: bool
    eod_id: int
    eod_token: str
    vocab_size: int
    tokenizer: str
    tokenizer_sha256: str
    encoder: str
    inputs: list[dict[str, Any]]
    first_bad_records: list[str]
    fingerprint: dict[str, Any]


def preprocess(options: PreprocessOptions, say: Callable[[str], None] = lambda _: None) -> Summary:
    """Make the shard, or go on making it.

    Args:
        options: What to do.
        say: Takes lines for the user.

    Raises:
        DataError: Inputs, tokenizer or options that cannot be used; a full disk; a result of other options in the way.
    """
    _check(options)
    prefix, folder = Path(options.output_prefix), Path(f"{options.output_prefix}.pieces")
    inputs = find_inputs(options.inputs)
    files = load_tokenizer(options.tokenizer)
    fingerprint = _fingerprint(options, inputs, files)
    finished = _finished(options, fingerprint)
    if finished is not None:
        shutil.rmtree(folder, ignore_errors=True)
        say(f"{prefix} is complete already; nothing to do")
        return finished
    encoder, reason = choose_encoder(files, options.encoder)
    say(reason)
    with _pieces_folder(folder, fingerprint, options.overwrite):
        piece_options = PieceOptions(
            folder,
            options.json_key,
            options.txt_split,
            options.append_eod,
            options.on_error,
            encoder,
            options.encoder == "gigatoken",
        )
        pieces, results = _run_all(options, inputs, files, piece_options, say)
        for stale in (Path(f"{prefix}.json"), idx_path(prefix)):
            stale.unlink(missing_ok=True)
        with ShardWriter(prefix, files.vocab_size) as writer:
            for piece in pieces:
                writer.append_shard(folder / piece.name)
        summary = _summarize(options, inputs, files, fingerprint, encoder, pieces, results, ShardReader(prefix))
        write_json(Path(f"{prefix}.json"), asdict(summary))
    shutil.rmtree(folder, ignore_errors=True)
    return summary


def _check(options: PreprocessOptions) -> None:
    if options.workers < 1:
        raise DataError(f"--workers is {options.workers}, needs at least 1")
    if options.piece_bytes < 1:
        raise DataError(f"--piece-megabytes gives {options.piece_bytes} bytes, needs a positive size")
    parent = Path(options.output_prefix).resolve().parent
    if not parent.is_dir():
        raise DataError(f"--output-prefix {options.output_prefix}: the folder {parent} does not exist; make it first")


def _fingerprint(options: PreprocessOptions, inputs: list[InputFile], files: TokenizerFiles) -> dict[str, Any]:
    """All that the bytes of the result depend on. (on_error is no part of it: it matters only where there are bad records.)"""
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
    if not idx_path(prefix).exists():
        return None
    try:
        old = json.loads(Path(f"{prefix}.json").read_text(encoding="utf-8"))
        shard = ShardReader(prefix)
        if old["fingerprint"] == fingerprint and (len(shard), shard.num_tokens) == (old["documents"], old["tokens"]):
            summary = Summary(**old)
            return None if summary.bad_records and options.on_error == "fatal" else summary
        changed = _changed(old["fingerprint"], fingerprint)
    except FileNotFoundError:
        # Killed between the shard and its statistics: the pieces are still there, unless the shard is somebody else's.
        if Path(f"{prefix}.pieces").is_dir():
            return None
        changed = "its origin is not known"
    except (OSError, ValueError, KeyError, TypeError):
        changed = "it cannot be read"
    if options.overwrite:
        return None
    raise DataError(
        f"{bin_path(prefix)} exists and was made from something else ({changed}); "
        "give another --output-prefix, or --overwrite to replace it"
    )


@contextmanager
def _pieces_folder(folder: Path, fingerprint: dict[str, Any], overwrite: bool) -> Iterator[None]:
    """The folder of pieces, for this process alone, empty or with pieces of the same work."""
    try:
        folder.mkdir(exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise write_error(folder, error) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError(f"{folder} is in use by another process; wait for it or give another prefix") from error
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
            for path in folder.iterdir():
                if path.name != "lock":
                    path.unlink()
            old = None
        if old is None:
            strangers = sorted({path.name for path in folder.iterdir()} - {"lock", "work.json.tmp"})
            if strangers:
                raise DataError(
                    f"{folder} holds {strangers[0]}, which is not of this tool; give another --output-prefix"
                )
            write_json(state, fingerprint)
        yield
    finally:
        os.close(lock)


def _run_all(
    options: PreprocessOptions,
    inputs: list[InputFile],
    files: TokenizerFiles,
    piece_options: PieceOptions,
    say: Callable[[str], None],
) -> tuple[list[Piece], list[PieceResult]]:
    """Do all pieces that are not done yet; returns them, without their blocks of text, in input order."""
    pieces: list[Piece] = []
    results: dict[str, PieceResult] = {}
    running: dict[Future[PieceResult], Piece] = {}
    # Blocks of compressed files travel with their piece: no more of them in flight than can soon be worked on.
    most = options.workers + 1 if options.workers > 1 else 1

    def collect() -> None:
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            piece = running.pop(future)
            result = results[piece.name] = future.result()
            if result.fell_back is not None:
                say(f"piece {piece.name}: encoded by tokenizers, as gigatoken gives other IDs for {result.fell_back!r}")
            progress.add(piece.size, result.tokens)

    with (
        ThroughputProgress(sum(source.size for source in inputs)) as progress,
        _pool(options.workers, files, piece_options) as pool,
    ):
        try:
            for piece in plan_pieces(inputs, options.piece_bytes, options.txt_split):
                pieces.append(_without_text(piece))
                known = read_marker(piece_options.folder / piece.name)
                if known is not None and not (known.bad and options.on_error == "fatal"):
                    results[piece.name] = known
                    progress.skip(piece.size)
                    continue
                running[pool.submit(run_piece, piece)] = pieces[-1]
                del piece
                while len(running) >= most:
                    collect()
            while running:
                collect()
        except BrokenProcessPool as error:
            raise DataError(
                "a worker process died, perhaps for want of memory; run the same command again with fewer --workers: "
                "finished pieces are kept, unless --piece-megabytes is changed"
            ) from error
        except BaseException:
            for future in running:
                future.cancel()
            raise
    return pieces, [results[piece.name] for piece in pieces]


def _without_text(piece: Piece) -> Piece:
    """A piece without its blocks, which would otherwise stay in memory to the end."""
    return replace(piece, parts=tuple(replace(part, block=None) for part in piece.parts))


class _InProcess(Executor):
    """Runs each task at once, in this process."""

    def __init__(self, worker: PieceWorker) -> None:
        self._worker = worker

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(self._worker.run(*args))
        return future


def _pool(workers: int, files: TokenizerFiles, options: PieceOptions) -> Executor:
    if workers == 1:
        return _InProcess(PieceWorker(files, options))
    # spawn: a forked child would inherit the threads' locks of the libraries loaded here.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=start_worker, initargs=(files, options))


def _summarize(
    options: PreprocessOptions,
    inputs: list[InputFile],
    files: TokenizerFiles,
    fingerprint: dict[str, Any],
    encoder: str,
    pieces: list[Piece],
    results: list[PieceResult],
    shard: ShardReader,
) -> Summary:
    bad_lines, seen = [], [0] * len(inputs)
    for piece, result in zip(pieces, results, strict=True):
        for part, number, reason in result.bad_records:
            source = piece.parts[part]
            before = seen[source.input] + sum(
                count
                for other, count in zip(piece.parts[:part], result.records[:part], strict=True)
                if other.input == source.input
            )
            kind = "row" if source.format == "parquet" else "line"
            bad_lines.append(f"{source.path}, {kind} {before + number + 1}: {reason}")
        for source, count in zip(piece.parts, result.records, strict=True):
            seen[source.input] += count
    return Summary(
        documents=len(shard),
        tokens=shard.num_tokens,
        empty_documents=sum(result.empty for result in results),
        bad_records=sum(result.bad for result in results),
        special_tokens_in_text=sum(result.special_tokens for result in results),
        text_bytes=sum(result.text_bytes for result in results),
        dtype=shard.dtype.__name__,
        append_eod=options.append_eod,
        eod_id=files.eos_id,
        eod_token=files.eos_token,
        vocab_size=files.vocab_size,
        tokenizer=Path(files.folder).resolve().name,
        tokenizer_sha256=files.fingerprint,
        encoder=encoder,
        inputs=[{"path": source.path, "bytes": source.size} for source in inputs],
        first_bad_records=bad_lines[:1000],
        fingerprint=fingerprint,
    )
