"""Hugging Face weight files, one tensor at a time: reads sharded or single safetensors, writes shards with an index.

A safetensors file is an 8-byte little-endian header length, a JSON header with dtype, shape and byte range of each tensor,
and the tensors back to back. Sizes are known before the data, so the writer never holds more than one tensor.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


class ConversionError(ValueError):
    """A model that cannot be converted; the message is one line for the user."""


class SafetensorsReader:
    """Tensors of a Hugging Face model folder by name.

    Attributes:
        files: File of each tensor.

    Raises:
        ConversionError: No safetensors, a damaged file, or an index that names missing files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = folder / INDEX
        if index.is_file():
            self.files = _weight_map(index)
        elif (folder / SINGLE).is_file():
            self.files = dict.fromkeys(self._keys(SINGLE), SINGLE)
        else:
            pickled = sorted(path.name for path in folder.glob("*.bin")) if folder.is_dir() else []
            hint = f"; {pickled[0]} is a pickle, which can run code: save the model as safetensors" if pickled else ""
            raise ConversionError(f"{folder} has neither {INDEX} nor {SINGLE}{hint}")
        absent = sorted({name for name in self.files.values() if not (folder / name).is_file()})
        if absent:
            raise ConversionError(f"{index} names {absent[0]}, which is not there: the download is incomplete")

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        with self._opened(self.files[name]) as file:
            return tuple(file.get_slice(name).get_shape())

    def dtype(self, name: str) -> torch.dtype:
        """Type of a tensor, without reading it. Raises ConversionError for quantised ones: they are no weights as such."""
        with self._opened(self.files[name]) as file:
            found = file.get_slice(name).get_dtype()
        if found not in _DTYPES:
            known = ", ".join(_DTYPES)
            raise ConversionError(
                f"{self.folder}: {name} has type {found}, known are {known}: use the unquantised model"
            )
        return _DTYPES[found]

    def read(self, name: str) -> torch.Tensor:
        """One tensor."""
        with self._opened(self.files[name]) as file:
            return file.get_tensor(name)

    def _keys(self, file: str) -> list[str]:
        with self._opened(file) as opened:
            return list(opened.keys())

    @contextmanager
    def _opened(self, file: str) -> Iterator[Any]:
        # Opened anew for each tensor: closing lets the mapped pages go, so they do not add up to the whole file.
        try:
            with safe_open(self.folder / file, framework="pt") as opened:
                yield opened
        except (SafetensorError, OSError) as error:
            raise ConversionError(f"{self.folder / file} is damaged or truncated ({error}): fetch it again") from None


def _weight_map(index: Path) -> dict[str, str]:
    try:
        return dict(json.loads(index.read_text())["weight_map"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConversionError(f"{index} is damaged ({type(error).__name__}: {error}): fetch it again") from None


def write_safetensors(
    folder: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype,
    tensors: Iterator[tuple[str, torch.Tensor]],
    shard_bytes: int,
) -> None:
    """Write tensors as they come into shards of at most shard_bytes, and the index; a single shard has no index.

    Args:
        folder: Exists already.
        shapes: All tensors that will come, in their order.
        dtype: Of the files; tensors are cast to it.
        tensors: Name and tensor, in the order of `shapes`.
        shard_bytes: A shard holds at least one tensor, however large.
    """
    size = torch.empty((), dtype=dtype).element_size()
    numbers = {name: size * torch.Size(shape).numel() for name, shape in shapes.items()}
    shards: list[list[str]] = [[]]
    filled = 0
    for name, count in numbers.items():
        if shards[-1] and filled + count > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += count
    files = (
        [SINGLE]
        if len(shards) == 1
        else [f"model-{n + 1:05d}-of-{len(shards):05d}.safetensors" for n in range(len(shards))]
    )
    for file, members in zip(files, shards, strict=True):
        _write_shard(folder / file, {name: shapes[name] for name in members}, numbers, dtype, tensors)
    if len(shards) > 1:
        places = {name: file for file, members in zip(files, shards, strict=True) for name in members}
        index = {"metadata": {"total_size": sum(numbers.values())}, "weight_map": dict(sorted(places.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _write_shard(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    numbers: Mapping[str, int],
    dtype: torch.dtype,
    tensors: Iterator[tuple[str, torch.Tensor]],
) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, shape in shapes.items():
        header[name] = {
            "dtype": _NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [position, position + numbers[name]],
        }
        position += numbers[name]
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # data begins at a multiple of 8
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(encoded)) + encoded)
        for expected, shape in shapes.items():
            name, tensor = next(tensors)
            assert name == expected, f"{name} came, not {expected}"
            assert tuple(tensor.shape) == tuple(shape), f"{name} is {tuple(tensor.shape)}, not {tuple(shape)}"
            stream.write(memoryview(tensor.to(dtype).contiguous().view(torch.uint8).numpy().reshape(-1)))
