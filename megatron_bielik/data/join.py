"""Finished pieces to the final shards, in input order: all documents in one, or as many as fit into a number of tokens.

Where shards end depends on the documents alone: whole documents, as many as fit, a longer one alone in its shard.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megatron_bielik.data.errors import DataError
from megatron_bielik.data.manifest import ShardEntry, entry_of, manifest_path, read_manifest, write_json
from megatron_bielik.data.shards import ShardReader, ShardWriter, bin_path, idx_path

NAMES_FILE = "names.json"  # in the folder of pieces: the shards that are being written
_MOST_THREADS = 8
_QUANTILES = (1, 10, 25, 50, 75, 90, 99)
_MOST_LENGTHS = 1_000_000


@dataclass(frozen=True)
class Slice:
    """Documents [first, stop) of a piece."""

    piece: Path
    first: int
    stop: int


def plan_shards(pieces: Iterable[tuple[Path, npt.NDArray[np.int32]]], shard_tokens: int | None) -> list[list[Slice]]:
    """Which documents go into which shard; at least one shard.

    Args:
        pieces: Prefix of every piece, and the tokens of its documents, int32 [documents].
        shard_tokens: The most tokens of a shard; None for a single shard.
    """
    shards: list[list[Slice]] = [[]]
    used = 0
    for piece, lengths in pieces:
        if shard_tokens is None:
            shards[0].append(Slice(piece, 0, len(lengths)))
            continue
        ends, first = np.cumsum(lengths, dtype=np.int64), 0
        while first < len(ends):
            before = int(ends[first - 1]) if first else 0
            stop = int(np.searchsorted(ends, before + shard_tokens - used, side="right"))
            if stop <= first and shards[-1]:
                shards.append([])
                used = 0
                continue
            stop = max(stop, first + 1)
            shards[-1].append(Slice(piece, first, stop))
            used += int(ends[stop - 1]) - before
            first = stop
    return shards


def shard_names(prefix: Path, count: int, shard_tokens: int | None) -> list[str]:
    """Names of the shards without folder and suffix: PREFIX, or PREFIX-00000 and so on."""
    return [prefix.name] if shard_tokens is None else [f"{prefix.name}-{number:05d}" for number in range(count)]


def join_pieces(
    prefix: Path, pieces: Sequence[Path], folder: Path, vocab_size: int, shard_tokens: int | None, threads: int
) -> list[ShardEntry]:
    """Write the final shards. Those of an earlier result under this prefix are removed before.

    Args:
        prefix: Path of the shards.
        pieces: Prefixes of the pieces, in order.
        folder: Of the pieces; keeps the names of what is being written, so that a run with other options can clean up.
        vocab_size: IDs must lie in [0, vocab_size).
        shard_tokens: The most tokens of a shard; None for a single shard.
        threads: Shards written at the same time.

    Raises:
        DataError: The disk refuses.
    """
    plan = plan_shards(((piece, ShardReader(piece).lengths) for piece in pieces), shard_tokens)
    names = shard_names(prefix, len(plan), shard_tokens)
    remove_earlier(prefix, folder)
    write_json(folder / NAMES_FILE, names)

    stop = threading.Event()

    def write(name: str, slices: list[Slice]) -> ShardEntry:
        path = prefix.parent / name
        with ShardWriter(path, vocab_size, checksum=True) as writer:
            for part in slices:
                if stop.is_set():
                    raise DataError(f"{path}: writing was stopped")
                writer.append_shard(part.piece, part.first, part.stop)
        return entry_of(path, writer.bin_sha256)

    with ThreadPoolExecutor(min(threads, len(plan), _MOST_THREADS)) as pool:
        futures = [pool.submit(write, name, slices) for name, slices in zip(names, plan, strict=True)]
        try:
            return [future.result() for future in futures]
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def remove_earlier(prefix: Path, folder: Path) -> None:
    """Remove manifest, statistics and shards that an earlier run has made under this prefix, the manifest first."""
    names = {prefix.name}
    # Where there is none, or one that cannot be read, it names nothing.
    with suppress(ValueError):
        names |= {entry.name for entry in read_manifest(manifest_path(prefix)).shards}
    with suppress(OSError, ValueError, TypeError):
        names |= set(json.loads((folder / NAMES_FILE).read_text(encoding="utf-8")))
    for path in (manifest_path(prefix), Path(f"{prefix}.json")):
        path.unlink(missing_ok=True)
    # Whatever a damaged file says, nothing is removed but what this prefix can have made.
    for name in sorted(name for name in names if re.fullmatch(re.escape(prefix.name) + r"(-\d{5,})?", str(name))):
        idx_path(prefix.parent / name).unlink(missing_ok=True)
        bin_path(prefix.parent / name).unlink(missing_ok=True)


def document_tokens(prefixes: Sequence[Path]) -> dict[str, float]:
    """Quantiles of the tokens per document, by name (p1 to p99, max, mean); beyond a million documents of every n-th."""
    readers = [ShardReader(prefix) for prefix in prefixes]
    documents = sum(map(len, readers))
    if not documents:
        return {}
    step = -(-documents // _MOST_LENGTHS)
    lengths = np.concatenate([reader.lengths[::step] for reader in readers])
    values = np.percentile(lengths, _QUANTILES, method="inverted_cdf")
    quantiles = {f"p{name}": float(value) for name, value in zip(_QUANTILES, values, strict=True)}
    longest = max(int(reader.lengths.max()) for reader in readers if len(reader))
    return {**quantiles, "max": float(longest), "mean": sum(reader.num_tokens for reader in readers) / documents}
