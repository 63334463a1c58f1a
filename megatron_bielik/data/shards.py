"""Token shards on disk: writer, reader and merge for Megatron's .bin/.idx pair, with numpy and mmap only.

The format is megatron-core's IndexedDataset (megatron/core/datasets/indexed_dataset.py), version 1, little-endian:
`.idx` holds the magic, u64 version, u8 dtype code, u64 sequences, u64 document entries, then int32 lengths [sequences],
int64 byte pointers [sequences], int64 document indices [documents + 1]; `.bin` holds the tokens back to back.
Here every document is one sequence. A shard without a single token gets one padding item in its `.bin`, which no
pointer reaches: megatron-core maps the file, and an empty file cannot be mapped.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from megatron_bielik.data.errors import DataError, write_error

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
DTYPES: dict[int, type[np.number]] = {
    1: np.uint8,
    2: np.int8,
    3: np.int16,
    4: np.int32,
    5: np.int64,
    6: np.float64,
    7: np.float32,
    8: np.uint16,
}
CODES = {dtype: code for code, dtype in DTYPES.items()}
UINT16_BELOW = 65_500  # megatron-core's DType.optimal_dtype

_HEADER = struct.Struct("<9sQBQQ")
INDEX_HEADER_BYTES = _HEADER.size
_COUNTS_AT = 9 + 8 + 1
_CHUNK = 1 << 20  # entries of the index handled at once
_COPY_BYTES = 1 << 23


def bin_path(prefix: str | Path) -> Path:
    """The file of tokens of a shard."""
    return Path(f"{prefix}.bin")


def idx_path(prefix: str | Path) -> Path:
    """The file of lengths and pointers of a shard."""
    return Path(f"{prefix}.idx")


def token_dtype(vocab_size: int) -> type[np.number]:
    """uint16 for vocabularies below 65,500, int32 above, as megatron-core chooses."""
    return np.uint16 if vocab_size < UINT16_BELOW else np.int32


class ShardWriter:
    """Writes one shard; used as a context manager.

    The pair appears under its final names when the block ends without an exception, and not at all otherwise. Memory
    does not grow with the number of documents: lengths go straight to disk, the rest of the index follows from them.

    Args:
        prefix: Path of the shard without .bin/.idx; the folder must exist.
        vocab_size: IDs must lie in [0, vocab_size); it chooses the dtype of the tokens.
        checksum: Compute the SHA-256 of the .bin on the way; it is in `bin_sha256` afterwards.

    Raises:
        DataError: An ID outside the vocabulary, a vocabulary that int32 cannot hold, or a write that failed.
    """

    def __init__(self, prefix: str | Path, vocab_size: int, checksum: bool = False) -> None:
        if not 0 < vocab_size < 2**31:
            raise DataError(f"vocab_size is {vocab_size}, needs 1 to {2**31 - 1}")
        self.prefix = Path(prefix)
        self.vocab_size = vocab_size
        self.dtype = token_dtype(vocab_size)
        self.num_documents = 0
        self.num_tokens = 0
        self.bin_sha256 = ""
        self._digest = hashlib.sha256() if checksum else None
        self._bin_tmp = Path(f"{prefix}.bin.tmp")
        self._idx_tmp = Path(f"{prefix}.idx.tmp")
        self._bin: BinaryIO | None = None
        self._idx: BinaryIO | None = None

    def __enter__(self) -> ShardWriter:
        try:
            self._bin = self._bin_tmp.open("wb", buffering=1 << 20)
            self._idx = self._idx_tmp.open("w+b", buffering=1 << 20)
            # The counts are not known yet; they are filled in at the end.
            self._idx.write(_HEADER.pack(MAGIC, VERSION, CODES[self.dtype], 0, 0))
        except OSError as error:
            self._discard()
            raise write_error(bin_path(self.prefix), error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._discard()
            return
        try:
            self._finish()
        except OSError as failure:
            self._discard()
            raise write_error(bin_path(self.prefix), failure) from failure

    def add_document(self, tokens: Sequence[int] | npt.NDArray[np.integer]) -> None:
        """Append one document. tokens: [length], may be empty."""
        flat = np.asarray(tokens if len(tokens) else np.empty(0, np.int32))
        self.add_batch(flat, np.array([len(flat)], dtype=np.int64))

    def add_batch(self, flat_tokens: npt.NDArray[np.integer], lengths: npt.NDArray[np.integer]) -> None:
        """Append many documents at once. flat_tokens: [sum of lengths], integers; lengths: [documents], integers."""
        if self._bin is None or self._idx is None:
            raise DataError(f"shard {self.prefix} is not open for writing; use `with ShardWriter(...) as writer:`")
        total = int(lengths.sum()) if len(lengths) else 0
        if total != len(flat_tokens) or (len(lengths) and int(lengths.min()) < 0):
            raise DataError(f"shard {self.prefix}: lengths add up to {total}, but {len(flat_tokens)} tokens were given")
        if len(flat_tokens):
            low, high = int(flat_tokens.min()), int(flat_tokens.max())
            if low < 0 or high >= self.vocab_size:
                bad = low if low < 0 else high
                raise DataError(
                    f"shard {self.prefix}: token ID {bad} is outside [0, {self.vocab_size}); "
                    "is this the vocabulary of the tokenizer that made the IDs?"
                )
        if len(lengths) and int(lengths.max()) >= 2**31:
            raise DataError(
                f"shard {self.prefix}: a document of {int(lengths.max())} tokens, the format holds {2**31 - 1}"
            )
        try:
            self._write_tokens(np.ascontiguousarray(flat_tokens, dtype=self.dtype).data)
            self._idx.write(np.ascontiguousarray(lengths, dtype=np.int32).data)
        except OSError as error:
            self._discard()
            raise write_error(bin_path(self.prefix), error) from error
        self.num_documents += len(lengths)
        self.num_tokens += total

    def append_shard(self, prefix: str | Path, first: int = 0, stop: int | None = None) -> None:
        """Append sequences [first, stop) of another shard of the same dtype, all by default, copying in blocks."""
        reader = ShardReader(prefix)
        stop = len(reader) if stop is None else stop
        itemsize = np.dtype(self.dtype).itemsize
        if reader.dtype != self.dtype:
            raise DataError(
                f"{bin_path(prefix)} holds {reader.dtype.__name__}, {bin_path(self.prefix)} "
                f"needs {self.dtype.__name__}; shards of different vocabularies cannot be merged"
            )
        if self._bin is None or self._idx is None:
            raise DataError(f"shard {self.prefix} is not open for writing; use `with ShardWriter(...) as writer:`")
        begin = int(reader.pointers[first]) // itemsize if first < len(reader) else reader.num_tokens
        end = int(reader.pointers[stop]) // itemsize if stop < len(reader) else reader.num_tokens
        step = _COPY_BYTES // itemsize
        try:
            # Read, not mapped: pages of a mapped file would count as this process's memory.
            with bin_path(prefix).open("rb", buffering=0) as source:
                source.seek(begin * itemsize)
                for start in range(begin, end, step):
                    self._write_tokens(np.fromfile(source, self.dtype, min(step, end - start)).data)
            for start in range(first, stop, _CHUNK):
                self._idx.write(np.ascontiguousarray(reader.lengths[start : min(start + _CHUNK, stop)]).data)
        except OSError as error:
            self._discard()
            raise write_error(bin_path(self.prefix), error) from error
        self.num_documents += stop - first
        self.num_tokens += end - begin

    def _write_tokens(self, data: memoryview | bytes) -> None:
        assert self._bin is not None
        if self._digest is not None:
            self._digest.update(data)
        self._bin.write(data)

    def _finish(self) -> None:
        assert self._bin is not None
        assert self._idx is not None
        itemsize = np.dtype(self.dtype).itemsize
        if self.num_tokens == 0:
            self._write_tokens(bytes(itemsize))
        _sync_and_close(self._bin)

        pointer = 0
        for lengths in self._written_lengths():
            ends = pointer + np.cumsum(lengths, dtype=np.int64) * itemsize
            self._idx.seek(0, os.SEEK_END)
            self._idx.write((ends - lengths.astype(np.int64) * itemsize).data)
            pointer = int(ends[-1])
        self._idx.seek(0, os.SEEK_END)
        for start in range(0, self.num_documents + 1, _CHUNK):
            self._idx.write(np.arange(start, min(start + _CHUNK, self.num_documents + 1), dtype=np.int64).data)
        self._idx.seek(_COUNTS_AT)
        self._idx.write(struct.pack("<QQ", self.num_documents, self.num_documents + 1))
        _sync_and_close(self._idx)
        self._bin = self._idx = None
        self.bin_sha256 = self._digest.hexdigest() if self._digest is not None else ""

        # Whoever finds the .idx finds the .bin it belongs to: an old index goes first, the new one comes last.
        idx_path(self.prefix).unlink(missing_ok=True)
        self._bin_tmp.replace(bin_path(self.prefix))
        self._idx_tmp.replace(idx_path(self.prefix))

    def _written_lengths(self) -> Iterator[npt.NDArray[np.int32]]:
        assert self._idx is not None
        for start in range(0, self.num_documents, _CHUNK):
            count = min(_CHUNK, self.num_documents - start)
            self._idx.seek(_HEADER.size + 4 * start)
            yield np.frombuffer(self._idx.read(4 * count), dtype=np.int32)

    def _discard(self) -> None:
        for stream in (self._bin, self._idx):
            try:
                if stream is not None:
                    stream.close()
            except OSError:
                pass  # closing flushes, and the disk that refused the write refuses this one too
        self._bin = self._idx = None
        self._bin_tmp.unlink(missing_ok=True)
        self._idx_tmp.unlink(missing_ok=True)


class ShardReader:
    """Reads one shard through mmap; also those that megatron-core wrote.

    Attributes:
        dtype: numpy type of the tokens.
        lengths: int32 [sequences], tokens of each.
        pointers: int64 [sequences], byte offset of each in the .bin.
        document_indices: int64 [documents + 1], first sequence of each document; ends with the number of sequences.
        tokens: dtype [tokens], the whole .bin as one read-only array.

    Args:
        prefix: Path of the shard without .bin/.idx.

    Raises:
        DataError: A file is missing, is no index, has another version, or the sizes of the two do not fit together.
    """

    def __init__(self, prefix: str | Path) -> None:
        self.prefix = Path(prefix)
        index, data = idx_path(prefix), bin_path(prefix)
        for path in (index, data):
            if not path.is_file():
                raise DataError(f"{path} not found; a shard is a .bin and an .idx, given by their path without suffix")
        size = index.stat().st_size
        if size < _HEADER.size:
            raise DataError(f"{index} has {size} bytes, an index has at least {_HEADER.size}; it is truncated")
        with index.open("rb") as stream:
            magic, version, code, sequences, entries = _HEADER.unpack(stream.read(_HEADER.size))
        if magic != MAGIC:
            raise DataError(f"{index} begins with {magic!r}, a Megatron index with {MAGIC!r}; it is not an index")
        if version != VERSION:
            raise DataError(f"{index} has version {version}, only {VERSION} is known")
        if code not in DTYPES:
            raise DataError(f"{index} has dtype code {code}, known are {sorted(DTYPES)}")
        self.dtype = DTYPES[code]

        needed = _HEADER.size + 12 * sequences + 8 * entries
        if size not in (needed, needed + sequences):  # multimodal shards have one more byte per sequence
            raise DataError(
                f"{index} has {size} bytes, {sequences} sequences and {entries} document entries need {needed}; "
                "it is truncated or damaged"
            )
        raw = np.asarray(np.memmap(index, dtype=np.uint8, mode="r"))
        at = _HEADER.size
        self.lengths: npt.NDArray[np.int32] = raw[at : at + 4 * sequences].view(np.int32)
        at += 4 * sequences
        self.pointers: npt.NDArray[np.int64] = raw[at : at + 8 * sequences].view(np.int64)
        at += 8 * sequences
        self.document_indices: npt.NDArray[np.int64] = raw[at : at + 8 * entries].view(np.int64)
        if entries == 0 or int(self.document_indices[-1]) != sequences:
            raise DataError(f"{index}: the documents do not end at sequence {sequences}; it is damaged")
        self._open_tokens(data)

    def _open_tokens(self, data: Path) -> None:
        itemsize = np.dtype(self.dtype).itemsize
        needed = int(self.pointers[-1]) + int(self.lengths[-1]) * itemsize if len(self.lengths) else 0
        size = data.stat().st_size
        # One item may stand in an otherwise empty file, see the head of this module.
        if size != needed and not (needed == 0 and size == itemsize):
            raise DataError(f"{data} has {size} bytes, its index needs {needed}; it is truncated or from another shard")
        self.num_tokens = needed // itemsize
        if needed:
            mapped = np.memmap(data, dtype=self.dtype, mode="r", shape=(self.num_tokens,))
            self.tokens: npt.NDArray[np.number] = np.asarray(mapped)  # a plain array slices faster than a memmap
        else:
            self.tokens = np.empty(0, dtype=self.dtype)

    def __reduce__(self) -> tuple[type[ShardReader], tuple[Path]]:
        """Pickled as its path: a loader process opens the files again instead of copying them."""
        return ShardReader, (self.prefix,)

    def __len__(self) -> int:
        """Number of sequences; in our own shards also the number of documents."""
        return len(self.lengths)

    def __getitem__(self, index: int) -> npt.NDArray[np.number]:
        """Tokens of one sequence, [length], read-only; negative indices count from the end."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.prefix}: sequence {index} asked for, the shard has {len(self)}")
        start = int(self.pointers[index]) // np.dtype(self.dtype).itemsize
        return self.tokens[start : start + int(self.lengths[index])]

    def __iter__(self) -> Iterator[npt.NDArray[np.number]]:
        for index in range(len(self)):
            yield self[index]

    def verify(self, vocab_size: int | None = None) -> None:
        """Read everything once: pointers follow from lengths, document entries never fall, IDs lie in the vocabulary.

        Raises:
            DataError: The first thing found wrong.
        """
        index, itemsize, pointer = idx_path(self.prefix), np.dtype(self.dtype).itemsize, 0
        for start in range(0, len(self), _CHUNK):
            lengths = self.lengths[start : start + _CHUNK].astype(np.int64)
            if int(lengths.min()) < 0:
                raise DataError(f"{index}: sequence {start + int(lengths.argmin())} has a negative length")
            begins = pointer + (np.cumsum(lengths) - lengths) * itemsize
            wrong = np.flatnonzero(begins != self.pointers[start : start + _CHUNK])
            if len(wrong):
                raise DataError(
                    f"{index}: the pointer of sequence {start + int(wrong[0])} does not follow from the lengths"
                )
            pointer += int(lengths.sum()) * itemsize
        for start in range(0, len(self.document_indices) - 1, _CHUNK):
            if int(np.diff(self.document_indices[start : start + _CHUNK + 1]).min()) < 0:
                raise DataError(f"{index}: document entries fall after entry {start}")
        if vocab_size is not None:
            for start in range(0, self.num_tokens, _CHUNK):
                block = self.tokens[start : start + _CHUNK]
                if int(block.min()) < 0 or int(block.max()) >= vocab_size:
                    where = f"tokens {start} to {start + len(block)}"
                    raise DataError(f"{bin_path(self.prefix)}: an ID outside [0, {vocab_size}) in {where}")


def merge_shards(prefixes: Sequence[str | Path], output: str | Path) -> ShardReader:
    """Concatenate shards of one dtype in the order given; memory does not depend on their size.

    Raises:
        DataError: No shards, a damaged shard, different dtypes, or an output that is among the inputs.
    """
    if not prefixes:
        raise DataError("merge_shards: no shards were given, needs at least one prefix")
    if Path(output).resolve() in {Path(prefix).resolve() for prefix in prefixes}:
        raise DataError(f"merge_shards: the output {output} is also an input; choose another name")
    dtype = ShardReader(prefixes[0]).dtype
    if dtype not in (np.uint16, np.int32):
        raise DataError(f"{bin_path(prefixes[0])} holds {dtype.__name__}, only uint16 and int32 shards can be merged")
    vocab_size = UINT16_BELOW - 1 if dtype is np.uint16 else 2**31 - 1
    with ShardWriter(output, vocab_size) as writer:
        for prefix in prefixes:
            writer.append_shard(prefix)
    return ShardReader(output)


def _sync_and_close(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())  # a full or failing disk may say so only here
    stream.close()
