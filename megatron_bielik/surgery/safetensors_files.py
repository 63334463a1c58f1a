"""Hugging Face weight files as streams: reads sharded or single safetensors in parts, writes shards with an index.

A safetensors file is an 8-byte little-endian header length, a JSON header with dtype, shape and byte range of each tensor,
and the tensors back to back. All sizes are known before the data: the reader compares them with the files before any work,
and the writer never holds more than the tensor, or the block of its rows, that came last.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import torch

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
_FLOATS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}
_DTYPES = {
    **_FLOATS,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_MAX_HEADER = 100 * 2**20  # as the safetensors library has it
_BLOCK_BYTES = 16 * 2**20

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
Dtypes: TypeAlias = torch.dtype | Mapping[str, torch.dtype]
# A tensor, or blocks of its rows in their order.
Content: TypeAlias = torch.Tensor | Iterable[torch.Tensor]


class ConversionError(ValueError):
    """A model that cannot be converted; the message is one line for the user."""


@dataclass(frozen=True)
class _Entry:
    """Where a tensor lies; begin and size in bytes."""

    file: str
    type_name: str
    shape: tuple[int, ...]
    begin: int
    size: int


class SafetensorsReader:
    """Tensors of a Hugging Face model folder by name. Reads bytes into memory of its own, so that nothing stays mapped.

    Attributes:
        files: File of each tensor, in the order in which they lie on the disk.

    Raises:
        ConversionError: No safetensors, a missing, damaged or truncated file, or an index that names what is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = folder / INDEX
        if index.is_file():
            places = _weight_map(index)
            absent = sorted({name for name in places.values() if not (folder / name).is_file()})
            if absent:
                raise ConversionError(f"{index} names {absent[0]}, which is not there: the download is incomplete")
            stored = _headers(folder, sorted(set(places.values())))
            for name, file in places.items():
                if name not in stored[file]:
                    raise ConversionError(f"{folder / file} is damaged: {name}, which {INDEX} names, is not in it")
            lying = [(name, entry) for entries in stored.values() for name, entry in entries.items()]
            self._entries = {name: entry for name, entry in lying if places.get(name) == entry.file}
        elif (folder / SINGLE).is_file():
            self._entries = _headers(folder, [SINGLE])[SINGLE]
        else:
            pickled = sorted(path.name for path in folder.glob("*.bin")) if folder.is_dir() else []
            hint = f"; {pickled[0]} is a pickle, which can run code: save the model as safetensors" if pickled else ""
            raise ConversionError(f"{folder} has neither {INDEX} nor {SINGLE}{hint}")
        self.files = {name: entry.file for name, entry in self._entries.items()}

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        return self._entries[name].shape

    def dtype(self, name: str) -> torch.dtype:
        """Type of a weight, without reading it. Raises ConversionError for quantised ones: they are no weights as such."""
        return self._known(name, _FLOATS)

    def stored_dtype(self, name: str) -> torch.dtype:
        """As `dtype`, with whole numbers and truth values allowed."""
        return self._known(name, _DTYPES)

    def nbytes(self, name: str) -> int:
        """Size of a tensor in its file."""
        return self._entries[name].size

    def read(self, name: str) -> torch.Tensor:
        """One tensor."""
        tensor = torch.empty(self.shape(name), dtype=self.stored_dtype(name))
        self.read_into(name, 0, tensor)
        return tensor

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows start to stop of the first dimension: [stop - start, ...]. Raises IndexError outside of the tensor."""
        rows, *rest = self.shape(name)
        if not 0 <= start <= stop <= rows:
            raise IndexError(f"rows {start} to {stop} of {name}, which has {rows}")
        block = torch.empty((stop - start, *rest), dtype=self.stored_dtype(name))
        self.read_into(name, start * (self.nbytes(name) // max(rows, 1)), block)
        return block

    def row_blocks(self, name: str, block_bytes: int = _BLOCK_BYTES) -> Iterator[torch.Tensor]:
        """All rows in blocks of about block_bytes, at least a row each: what write_safetensors takes for a tensor."""
        shape = self.shape(name)
        if len(shape) == 0:
            yield self.read(name)
            return
        step = max(1, block_bytes * shape[0] // max(self.nbytes(name), 1))
        for start in range(0, shape[0], step):
            yield self.read_rows(name, start, min(start + step, shape[0]))

    def read_into(self, name: str, offset: int, target: torch.Tensor) -> None:
        """Fill a contiguous tensor with a tensor's bytes from `offset` on; safe to call from several threads."""
        entry, view = self._entries[name], _bytes(target)
        assert offset >= 0, f"byte {offset} of {name}"
        assert offset + len(view) <= entry.size, f"{len(view)} bytes from {offset} of {name}, which has {entry.size}"
        path = self.folder / entry.file
        with path.open("rb", buffering=0) as stream:
            stream.seek(entry.begin + offset)
            while len(view):
                count = stream.readinto(view)
                if not count:
                    raise ConversionError(f"{path} is damaged or truncated (it became shorter): fetch it again")
                view = view[count:]

    def _known(self, name: str, known: Mapping[str, torch.dtype]) -> torch.dtype:
        found = self._entries[name].type_name
        if found not in known:
            raise ConversionError(
                f"{self.folder}: {name} has type {found}, known are {', '.join(known)}: use the unquantised model"
            )
        return known[found]


def _weight_map(index: Path) -> dict[str, str]:
    try:
        places = dict(json.loads(index.read_text())["weight_map"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConversionError(f"{index} is damaged ({type(error).__name__}: {error}): fetch it again") from None
    for file in places.values():
        if not isinstance(file, str) or not file or Path(file).name != file:
            raise ConversionError(f"{index} is damaged: it names {file!r}, which is no file of its folder")
    return places


def _headers(folder: Path, files: Iterable[str]) -> dict[str, dict[str, _Entry]]:
    """Tensors of each file by name, in the order of their bytes."""
    found = {}
    for file in files:
        path = folder / file
        try:
            with path.open("rb") as stream:
                found[file] = _read_header(file, stream, path.stat().st_size)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else error
            raise ConversionError(f"{path} is damaged or truncated ({reason}): fetch it again") from None
    return found


def _read_header(file: str, stream: BinaryIO, file_size: int) -> dict[str, _Entry]:
    """Raises ValueError, KeyError, TypeError or AttributeError where the file is not what the format says."""
    first = stream.read(8)
    length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
    if not 0 < length <= min(_MAX_HEADER, file_size - 8):
        raise ValueError(f"{file_size:,} bytes cannot hold its header")
    header: dict[str, Any] = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    entries = {}
    for name, described in header.items():
        begin, end = described["data_offsets"]
        shape, type_name = tuple(described["shape"]), described["dtype"]
        if not all(type(size) is int and size >= 0 for size in (begin, end, *shape)) or end < begin:
            raise ValueError(f"{name} has shape {list(shape)} and bytes {begin} to {end}")
        dtype = _DTYPES.get(type_name)
        if dtype is not None and end - begin != _count(shape) * dtype.itemsize:
            raise ValueError(f"{name} of shape {list(shape)} and type {type_name} has {end - begin} bytes")
        entries[name] = _Entry(file, type_name, shape, 8 + length + begin, end - begin)
    ordered = dict(sorted(entries.items(), key=lambda item: item[1].begin))
    position = 8 + length
    for name, entry in ordered.items():
        if entry.begin != position:
            raise ValueError(f"the bytes of {name} do not follow those before it")
        position += entry.size
    if position != file_size:
        raise ValueError(f"{file_size:,} bytes, its header says {position:,}")
    return ordered


def plan_shards(shapes: Shapes, dtype: Dtypes, shard_bytes: int) -> dict[str, list[str]]:
    """Names of the files that write_safetensors will write, and the tensors in each."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, count in byte_counts(shapes, dtype).items():
        if shards[-1] and filled + count > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += count
    if len(shards) == 1:
        return {SINGLE: shards[0]}
    return {f"model-{n:05d}-of-{len(shards):05d}.safetensors": names for n, names in enumerate(shards, start=1)}


def byte_counts(shapes: Shapes, dtype: Dtypes) -> dict[str, int]:
    """Bytes of each tensor in a file."""
    return {name: _count(shape) * _dtype_of(name, dtype).itemsize for name, shape in shapes.items()}


def write_safetensors(
    folder: Path, shapes: Shapes, dtype: Dtypes, tensors: Iterable[tuple[str, Content]], shard_bytes: int
) -> None:
    """Write tensors as they come into shards of at most shard_bytes, and the index; a single shard has no index.

    Args:
        folder: Exists already.
        shapes: All tensors that will come, in their order.
        dtype: Of the files, one or by name; tensors are cast to it.
        tensors: Name and content, in the order of `shapes`. The content is a tensor, or blocks of rows that together are it
            (SafetensorsReader.row_blocks); the next one is asked for when the one before is written.
        shard_bytes: A shard holds at least one tensor, however large.
    """
    stream, numbers, plan = iter(tensors), byte_counts(shapes, dtype), plan_shards(shapes, dtype, shard_bytes)
    for file, members in plan.items():
        with (folder / file).open("wb") as out:
            out.write(_header({name: shapes[name] for name in members}, numbers, dtype))
            for expected in members:
                name, content = next(stream)
                assert name == expected, f"{name} came, not {expected}"
                _write_tensor(out, name, shapes[name], _dtype_of(name, dtype), content)
    if len(plan) > 1:
        places = {name: file for file, members in plan.items() for name in members}
        index = {"metadata": {"total_size": sum(numbers.values())}, "weight_map": dict(sorted(places.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _header(shapes: Shapes, numbers: Mapping[str, int], dtype: Dtypes) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, shape in shapes.items():
        offsets = [position, position + numbers[name]]
        header[name] = {"dtype": _NAMES[_dtype_of(name, dtype)], "shape": list(shape), "data_offsets": offsets}
        position += numbers[name]
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # data begins at a multiple of 8
    return struct.pack("<Q", len(encoded)) + encoded


def _write_tensor(out: BinaryIO, name: str, shape: tuple[int, ...], dtype: torch.dtype, content: Content) -> None:
    if isinstance(content, torch.Tensor):
        assert tuple(content.shape) == tuple(shape), f"{name} is {tuple(content.shape)}, not {tuple(shape)}"
        content = [content]
    written = 0
    for block in content:
        assert block.shape[1:] == shape[1:], f"a block of {name} is {tuple(block.shape)}, not rows of {tuple(shape)}"
        written += block.numel()
        out.write(_bytes(block.to(dtype).contiguous()))
    assert written == _count(shape), f"the blocks of {name} have {written} elements, not those of {tuple(shape)}"


def _dtype_of(name: str, dtype: Dtypes) -> torch.dtype:
    return dtype if isinstance(dtype, torch.dtype) else dtype[name]


def _count(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()


def _bytes(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    assert tensor.is_contiguous()
    return memoryview(tensor.detach().reshape(-1).view(torch.uint8).numpy())
