"""Indices of data sets on disk, built once: megatron-core's arrays, named by the content of the shards they belong to."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from megatron_bielik.data.errors import DataError, write_error
from megatron_bielik.data.index import (
    BLOCK_ROWS,
    Blend,
    Integers,
    at_least,
    build_blending_indices,
    build_document_index,
    build_exhaustive_blending_indices,
    build_shuffle_index,
    normalised,
    num_sample_rows,
    sample_dtype,
    sample_index_blocks,
)
from megatron_bielik.data.shards import ShardReader, bin_path, idx_path

_UNFINISHED, _REPLACED = ".building-", ".replaced-"
_ABANDONED_SECONDS = 24 * 3600.0  # an unfinished folder this old belongs to a process that was killed
_SAMPLED_BLOCKS, _BLOCK_BYTES = 64, 1 << 16
_FORMAT = 1
_Array = tuple[np.dtype[Any], tuple[int, ...], Iterable[npt.NDArray[Any]]]
_Arrays = Iterator[tuple[str, _Array]]


@dataclass(frozen=True)
class DatasetIndex:
    """The three indices of one shard, mapped from disk.

    Args:
        documents: int32 or int64 [epochs * documents].
        samples: int32 or int64 [samples + 1, 2].
        shuffle: uint32 or int64 [samples].
    """

    documents: Integers
    samples: Integers
    shuffle: npt.NDArray[np.uint32] | npt.NDArray[np.int64]


@dataclass(frozen=True)
class IndexRequest:
    """Which index of a shard: the arguments of a GPTDataset that its indices depend on.

    Args:
        num_samples: Samples wanted, as many epochs as they need; one epoch where none is given.
        sequence_length: Tokens of a sample.
        seed: Of the RandomState.
        documents: First and one-past-last document; all by default.
        drop_last_partial_sequence: As build_sample_index.
        add_extra_token_to_sequence: As build_sample_index.
    """

    num_samples: int | None
    sequence_length: int
    seed: int
    documents: tuple[int, int] | None = None
    drop_last_partial_sequence: bool = True
    add_extra_token_to_sequence: bool = True


class IndexCache:
    """Indices on disk, each in a folder of .npy files and a description.json, named by what they depend on.

    That is the shard's content, not its path: the sizes of both files, the SHA-256 of the .idx, and that of 64 blocks spread
    over the .bin, which holds terabytes and of which the indices need no more than to be of this text. A folder appears
    when it is complete, so several processes may build at once; one that is damaged or truncated is built again.

    Args:
        folder: Made where it is missing.
        say: Gets lines of progress while something is built.
        threads: default_threads() where none is given.
    """

    def __init__(
        self, folder: str | Path, say: Callable[[str], None] = lambda _: None, threads: int | None = None
    ) -> None:
        self.folder = Path(folder)
        self.say = say
        self.threads = threads

    def dataset(self, prefix: str | Path, request: IndexRequest) -> DatasetIndex:
        """The indices that GPTDataset makes, built if they are not there.

        Raises:
            DataError: A shard that cannot be read or has no tokens, numbers out of range, or a write that failed.
        """
        reader = ShardReader(prefix)
        first, last = request.documents or (0, len(reader))
        if not 0 <= first <= last <= len(reader):
            raise DataError(f"index: documents are {first} to {last}, {prefix} has {len(reader)}")
        at_least("sequence_length", request.sequence_length, 1)
        what = {"shard": shard_identity(prefix), **asdict(request), "documents": [first, last]}
        arrays = self._get("dataset", what, lambda: self._dataset_arrays(reader, range(first, last), request))
        return DatasetIndex(arrays["documents"], arrays["samples"], arrays["shuffle"])

    def blend(self, weights: Sequence[float], size: int | None) -> Blend:
        """The indices that BlendedDataset makes: of normalised weights, or of exact sizes where `size` is None."""

        def build() -> _Arrays:
            if size is None:
                made = build_exhaustive_blending_indices([int(weight) for weight in weights], self.threads)
            else:
                made = build_blending_indices(normalised(weights), size, self.threads)
            for name, array in zip(("dataset", "sample"), made, strict=True):
                yield name, (array.dtype, array.shape, (array,))

        arrays = self._get("blend", {"weights": [float(weight) for weight in weights], "size": size}, build)
        return arrays["dataset"], arrays["sample"]

    def _dataset_arrays(self, reader: ShardReader, documents: range, request: IndexRequest) -> _Arrays:
        sequence, extra = request.sequence_length, request.add_extra_token_to_sequence
        tokens = int(reader.lengths[documents.start : documents.stop].sum(dtype=np.int64))
        epochs, separate_from = _epochs(reader.prefix, tokens, request)
        state = np.random.RandomState(request.seed)
        self.say(f"{reader.prefix}: document index, {epochs} x {len(documents):,} documents")
        index = build_document_index(documents, epochs, state, separate_from is not None)
        yield "documents", (index.dtype, index.shape, (index,))
        samples = num_sample_rows(sequence, epochs, tokens, request.drop_last_partial_sequence, extra)
        self.say(f"{reader.prefix}: sample index, {samples:,} samples")
        dtype = sample_dtype(index)
        blocks = sample_index_blocks(reader.lengths, index, sequence, samples + 1, extra, self.threads, dtype)
        yield "samples", (dtype, (samples + 1, 2), blocks)
        del index, blocks
        self.say(f"{reader.prefix}: shuffle index")
        order = build_shuffle_index(samples if separate_from is None else separate_from, samples, state)
        yield "shuffle", (order.dtype, order.shape, (order,))

    def _get(self, kind: str, what: dict[str, Any], build: Callable[[], _Arrays]) -> dict[str, Any]:
        key = hashlib.sha256(json.dumps([_FORMAT, kind, what], sort_keys=True).encode()).hexdigest()
        final = self.folder / f"{kind}-{key[:32]}"
        for _ in range(3):  # another process may put its own folder in place between building and opening
            found = _open(final, key)
            if found is not None:
                return found
            self._build(final, key, what, build)
        raise DataError(f"{final}: files just written cannot be read; use another folder for the cache")

    def _build(self, final: Path, key: str, what: dict[str, Any], build: Callable[[], _Arrays]) -> None:
        unfinished = self.folder / f"{_UNFINISHED}{os.getpid()}-{secrets.token_hex(4)}"
        try:
            unfinished.mkdir(parents=True)
            for left_over in (*self.folder.glob(f"{_UNFINISHED}*"), *self.folder.glob(f"{_REPLACED}*")):
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - left_over.stat().st_mtime > _ABANDONED_SECONDS:
                        shutil.rmtree(left_over, ignore_errors=True)
            files = {name: write_array(unfinished / f"{name}.npy", *array) for name, array in build()}
            description = json.dumps({"key": key, "what": what, "files": files}, indent=1) + "\n"
            _write_whole(unfinished / "description.json", (description.encode(),))
            if not _moved(unfinished, final) and _open(final, key) is None:
                # Not another process that was faster, but what could not be read.
                aside = self.folder / f"{_REPLACED}{secrets.token_hex(4)}"
                with contextlib.suppress(FileNotFoundError):
                    final.rename(aside)
                shutil.rmtree(aside) if aside.is_dir() else aside.unlink(missing_ok=True)
                _moved(unfinished, final)
        except OSError as error:
            raise write_error(final, error) from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def _moved(unfinished: Path, final: Path) -> bool:
    """Give a folder its name; False where something has it."""
    try:
        unfinished.rename(final)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise
        return False
    return True


def _epochs(prefix: Path, tokens: int, request: IndexRequest) -> tuple[int, int | None]:
    """Epochs that the samples need, and from which sample on the last one is shuffled by itself, if it is.

    As GPTDataset: it is where less than 80% of it is needed.
    """
    extra = int(request.add_extra_token_to_sequence)
    if tokens <= extra:
        raise DataError(
            f"{prefix}: the documents have {tokens} tokens, an index needs at least {extra + 1}; use more text"
        )
    if request.num_samples is None:
        return 1, None
    at_least("num_samples", request.num_samples, 1)
    epochs = max(1, -(-(request.num_samples * request.sequence_length + extra) // tokens))
    if epochs == 1:
        return 1, None
    before_last = ((epochs - 1) * tokens - extra) // request.sequence_length
    per_epoch = (tokens - extra) // request.sequence_length
    return epochs, before_last if request.num_samples - before_last < int(0.80 * per_epoch) else None


def shard_identity(prefix: str | Path) -> dict[str, str]:
    """What tells a shard's content from another's: sizes, SHA-256 of the .idx, and of 64 blocks spread over the .bin."""
    index, data = idx_path(prefix), bin_path(prefix)
    try:
        with index.open("rb") as stream:
            whole = hashlib.file_digest(stream, "sha256").hexdigest()
        return {"idx": f"{index.stat().st_size} {whole}", "bin": _sampled(data)}
    except OSError as error:
        raise DataError(f"{prefix}: cannot be read: {error.strerror}; check the files and their permissions") from error


def _sampled(path: Path) -> str:
    """Size and SHA-256 of blocks spread evenly over a file, both ends among them; of all of it up to 4 MiB."""
    size, digest = path.stat().st_size, hashlib.sha256()
    with path.open("rb") as stream:
        for block in range(_SAMPLED_BLOCKS):
            stream.seek(max(0, size - _BLOCK_BYTES) * block // (_SAMPLED_BLOCKS - 1))
            digest.update(stream.read(_BLOCK_BYTES))
    return f"{size} {digest.hexdigest()}"


def write_array(
    path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], blocks: Iterable[npt.NDArray[Any]]
) -> dict[str, Any]:
    """Write an .npy file block by block, along the first dimension. Returns what tells it from a damaged one.

    Raises:
        OSError: The write failed; what was written of the file is left.
    """
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}

    def parts() -> Iterator[Any]:
        buffer = io.BytesIO()
        np.lib.format.write_array_header_1_0(buffer, header)
        yield buffer.getvalue()
        for block in blocks:
            yield from (block[start : start + BLOCK_ROWS].data for start in range(0, len(block), BLOCK_ROWS))

    _write_whole(path, parts())
    return {"dtype": dtype.str, "shape": list(shape), "sampled": _sampled(path)}


def _write_whole(path: Path, parts: Iterable[Any]) -> None:
    stream: BinaryIO
    with path.open("wb") as stream:
        for part in parts:
            stream.write(part)
        stream.flush()
        os.fsync(stream.fileno())  # a full or failing disk may say so only here


def _open(folder: Path, key: str) -> dict[str, Any] | None:
    """The arrays of a folder, or none where one is missing, incomplete or not what was written. Pickles are refused."""
    try:
        description = json.loads((folder / "description.json").read_bytes())
        arrays = {}
        for name, file in description["files"].items():
            path = folder / f"{name}.npy"
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            if [array.dtype.str, list(array.shape), _sampled(path)] != [file["dtype"], file["shape"], file["sampled"]]:
                return None
            arrays[name] = array
        return arrays if description["key"] == key else None
    except (OSError, ValueError, EOFError, KeyError, TypeError, AttributeError):
        return None
