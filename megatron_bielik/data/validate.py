"""Is a shard whole? Sizes, index, documents, token IDs, end-of-document tokens and checksums, each file read once.

The index alone and the manifest, if there is one, say what has to be found. Memory is a few blocks, whatever the size.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_bielik.data.errors import DataError
from megatron_bielik.data.manifest import Manifest, NamedShard, ShardEntry, find_shards
from megatron_bielik.data.shards import INDEX_HEADER_BYTES, ShardReader, bin_path, idx_path

_ENTRIES = 1 << 18  # of the index at a time
_BLOCK_BYTES = 1 << 23  # of the tokens


@dataclass(frozen=True)
class Checked:
    """A shard that was looked through.

    Attributes:
        prefix: Its path without suffix.
        documents, tokens, file_bytes: What it holds, .bin and .idx together; 0 where it cannot be opened.
        vocabulary: IDs were compared with this many, or None: nothing was known.
        eod_id: Token at the end of every document, or None where nothing is said of it.
        checksums: The files were compared with the manifest's SHA-256.
        fault: The first fault found, with its place, or None.
    """

    prefix: Path
    documents: int = 0
    tokens: int = 0
    file_bytes: int = 0
    vocabulary: int | None = None
    eod_id: int | None = None
    checksums: bool = False
    fault: str | None = None


def validate(
    names: Sequence[str | Path], vocab_size: int | None = None, checksums: bool = True, threads: int = 1
) -> Iterator[Checked]:
    """Look through shards, in the order given; threads work on several at a time. One without a token has a fault, too.

    Args:
        names: Manifests, prefixes, .bin or .idx files (manifest.find_shards).
        vocab_size: IDs must lie in [0, vocab_size); None takes the manifest's.
        checksums: Compare with the manifest's SHA-256.
        threads: Shards at a time.

    Raises:
        DataError: A manifest that cannot be read. Faults of shards are in the results.
    """
    shards = find_shards(names)
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        yield from pool.map(lambda shard: validate_shard(shard, vocab_size, checksums), shards)


def validate_shard(shard: NamedShard, vocab_size: int | None = None, checksums: bool = True) -> Checked:
    """Look through one shard; see `validate`."""
    try:
        reader = ShardReader(shard.prefix)
    except DataError as error:
        return Checked(shard.prefix, fault=str(error))
    manifest = shard.manifest
    vocab_size = manifest.vocab_size if vocab_size is None and manifest else vocab_size
    eod_id = manifest.eod_id if manifest and manifest.append_eod else None
    entry = shard.entry if checksums else None
    fault = None
    try:
        if manifest and shard.entry:
            _check_entry(reader, manifest, shard.entry)
        plain = _check_index(reader, entry)
        _check_tokens(reader, vocab_size, eod_id, plain, entry)
        if not reader.num_tokens:
            raise DataError(f"{shard.prefix} holds no token: nothing can be trained on it")
    except DataError as error:
        fault = str(error)
    sizes = sum(path.stat().st_size for path in (bin_path(shard.prefix), idx_path(shard.prefix)))
    documents = len(reader.document_indices) - 1
    return Checked(
        shard.prefix, documents, reader.num_tokens, sizes, vocab_size, eod_id, entry is not None and not fault, fault
    )


def _check_entry(reader: ShardReader, manifest: Manifest, entry: ShardEntry) -> None:
    found = {
        "dtype": reader.dtype.__name__,
        "documents": len(reader.document_indices) - 1,
        "tokens": reader.num_tokens,
        "bin_bytes": bin_path(reader.prefix).stat().st_size,
        "idx_bytes": idx_path(reader.prefix).stat().st_size,
    }
    for key, value in found.items():
        wanted = manifest.dtype if key == "dtype" else getattr(entry, key)
        if value != wanted:
            raise DataError(f"{reader.prefix}: {key} is {value}, its manifest says {wanted}")


def _section(path: Path, offset: int, dtype: Any, count: int) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """A part of the index in blocks, read and not mapped: number of the first entry, entries."""
    with path.open("rb") as stream:
        stream.seek(offset)
        for start in range(0, count, _ENTRIES):
            yield start, np.fromfile(stream, dtype, min(_ENTRIES, count - start))


def _check_index(reader: ShardReader, entry: ShardEntry | None) -> bool:
    """Lengths, pointers, documents, checksum of the .idx. Returns whether every document is one sequence."""
    path, sequences, itemsize = idx_path(reader.prefix), len(reader), np.dtype(reader.dtype).itemsize
    lengths_at = INDEX_HEADER_BYTES
    pointers_at = lengths_at + 4 * sequences
    documents_at = pointers_at + 8 * sequences
    entries = len(reader.document_indices)
    pairs = zip(
        _section(path, lengths_at, np.int32, sequences), _section(path, pointers_at, np.int64, sequences), strict=True
    )
    # Documents first: a fault in a sequence is told with its document.
    plain, last = entries == sequences + 1, 0
    for start, indices in _section(path, documents_at, np.int64, entries):
        steps = np.diff(indices, prepend=last if start else 0)
        if (start == 0 and indices[0] != 0) or steps.min() < 0:
            at = start + int(np.argmax(steps < 0)) if steps.min() < 0 else 0
            raise DataError(
                f"{path}: document {at} begins with sequence {indices[at - start]}, before the one before it"
            )
        plain = plain and bool(np.array_equal(indices, np.arange(start, start + len(indices))))
        last = int(indices[-1])
    pointer = 0
    for (start, lengths), (_, pointers) in pairs:
        if lengths.min() < 0:
            raise DataError(f"{path}: {_place(reader, start + int(np.argmax(lengths < 0)))} has a negative length")
        ends = pointer + np.cumsum(lengths, dtype=np.int64) * itemsize
        wrong = np.flatnonzero(ends - lengths.astype(np.int64) * itemsize != pointers)
        if len(wrong):
            place = _place(reader, start + int(wrong[0]))
            raise DataError(f"{path}: the pointer of {place} does not follow from the lengths")
        pointer = int(ends[-1])
    if entry is not None:
        with path.open("rb") as stream:
            _compare(path, hashlib.file_digest(stream, "sha256").hexdigest(), entry.idx_sha256)
    return plain


def _document_ends(reader: ShardReader, plain: bool) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """Number of a document, and the tokens up to the end of it and of those that follow, in blocks."""
    done, at = 0, 0
    for start, lengths in _section(idx_path(reader.prefix), INDEX_HEADER_BYTES, np.int32, len(reader)):
        ends = done + np.cumsum(lengths, dtype=np.int64)
        done = int(ends[-1])
        if plain:
            yield start, ends
            continue
        stop = bisect.bisect_right(reader.document_indices, start + len(lengths), lo=at) - 1
        last = np.asarray(reader.document_indices[at + 1 : stop + 1]) - 1 - start
        # A document without a sequence ends where the one before it does.
        before = done - int(lengths.sum())
        yield at, np.where(last >= 0, ends[np.maximum(last, 0)], before)
        at = stop


def _check_tokens(
    reader: ShardReader, vocab_size: int | None, eod_id: int | None, plain: bool, entry: ShardEntry | None
) -> None:
    path, digest, position = bin_path(reader.prefix), hashlib.sha256(), 0
    ends = _document_ends(reader, plain) if eod_id is not None else iter(())
    first, waiting, previous = 0, np.empty(0, np.int64), 0
    if eod_id is not None and not reader.num_tokens and len(reader.document_indices) > 1:
        raise DataError(f"{path}: document 0 does not end with token {eod_id}")
    step = _BLOCK_BYTES // np.dtype(reader.dtype).itemsize
    with path.open("rb", buffering=0) as stream:
        while len(block := np.fromfile(stream, reader.dtype, step)):
            if entry is not None:
                digest.update(block.data)
            block = block[: reader.num_tokens - position]  # an empty shard holds one item that is no token
            if vocab_size is not None and len(block) and (block.min() < 0 or block.max() >= vocab_size):
                at = int(np.argmax((block < 0) | (block >= vocab_size)))
                place = _place(reader, bisect.bisect_right(reader.pointers, (position + at) * block.itemsize) - 1)
                raise DataError(f"{path}: token ID {block[at]} in {place} is outside [0, {vocab_size})")
            position += len(block)
            while (not len(waiting) or waiting[-1] <= position) and (more := next(ends, None)) is not None:
                first = first if len(waiting) else more[0]
                waiting = np.concatenate([waiting, more[1]])
            count = int(np.searchsorted(waiting, position, side="right"))
            if eod_id is not None and count:
                here = waiting[:count]
                wrong = np.diff(here, prepend=previous) == 0  # without a token, so without an end
                last = here[~wrong] - 1 - position + len(block)
                wrong[~wrong] = block[last] != eod_id
                if wrong.any():
                    raise DataError(
                        f"{path}: document {first + int(np.argmax(wrong))} does not end with token {eod_id}"
                    )
                first, waiting, previous = first + count, waiting[count:], int(here[-1])
    if entry is not None:
        _compare(path, digest.hexdigest(), entry.bin_sha256)


def _place(reader: ShardReader, sequence: int) -> str:
    """A sequence, named by its document."""
    document = bisect.bisect_right(reader.document_indices, sequence) - 1
    several = len(reader) != len(reader.document_indices) - 1
    return f"document {document}" + (f" (sequence {sequence})" if several else "")


def _compare(path: Path, found: str, wanted: str) -> None:
    if found != wanted:
        raise DataError(f"{path}: the SHA-256 is {found[:12]}…, its manifest says {wanted[:12]}…; copy it again")
