"""The safetensors writer against the safetensors library, and the reader on files that are not what they should be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_bielik.surgery.safetensors_files import (
    INDEX,
    SINGLE,
    ConversionError,
    SafetensorsReader,
    write_safetensors,
)


def some_tensors(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"a.weight": (3, 5), "b": (1,), "ł/odd name": (2, 2, 3), "large": (40, 10)}
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


def write(folder: Path, tensors: dict[str, torch.Tensor], dtype: torch.dtype, shard_bytes: int) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    write_safetensors(folder, shapes, dtype, iter(tensors.items()), shard_bytes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_one_file_as_the_library_reads_it(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = some_tensors(dtype)
    write(tmp_path, tensors, dtype, 10**9)
    assert [path.name for path in tmp_path.iterdir()] == [SINGLE]
    found = load_file(tmp_path / SINGLE)
    assert found.keys() == tensors.keys()
    assert all(found[name].dtype == dtype and torch.equal(found[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("shard_bytes", [1, 80, 100, 1700])
def test_shards(tmp_path: Path, shard_bytes: int) -> None:
    """No shard is larger than allowed, unless it holds a single tensor; the index names every tensor's file."""
    tensors = some_tensors(torch.float32)
    write(tmp_path, tensors, torch.float32, shard_bytes)
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())
    assert index["weight_map"].keys() == tensors.keys()
    files = sorted(set(index["weight_map"].values()))
    assert files == sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    for file in files:
        members = load_file(tmp_path / file)
        assert len(members) == 1 or sum(tensor.nbytes for tensor in members.values()) <= shard_bytes
        assert all(torch.equal(members[name], tensors[name]) for name in members)
    reader = SafetensorsReader(tmp_path)
    for name, tensor in tensors.items():
        assert reader.shape(name) == tuple(tensor.shape)
        assert reader.dtype(name) == torch.float32
        assert torch.equal(reader.read(name), tensor)


def test_casts_and_takes_views(tmp_path: Path) -> None:
    whole = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))
    write(tmp_path, {"turned": whole.T, "half": whole[::2, 3:]}, torch.bfloat16, 10**9)
    found = load_file(tmp_path / SINGLE)
    assert torch.equal(found["turned"], whole.T.bfloat16())
    assert torch.equal(found["half"], whole[::2, 3:].bfloat16())


def test_tensors_are_taken_one_by_one(tmp_path: Path) -> None:
    """The next tensor is asked for only after the one before is in the file."""
    sizes: list[int] = []

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        for number in range(5):
            sizes.append(sum(path.stat().st_size for path in tmp_path.iterdir()))
            yield f"t{number}", torch.zeros(300_000)

    write_safetensors(tmp_path, {f"t{n}": (300_000,) for n in range(5)}, torch.float32, tensors(), 10**9)
    assert all(later - earlier > 1_000_000 for earlier, later in pairwise(sizes))


@pytest.mark.parametrize("stream", [[("b", (2,)), ("a", (2,))], [("a", (3,)), ("b", (2,))]], ids=["order", "shape"])
def test_another_tensor_than_announced_is_a_bug(tmp_path: Path, stream: list[tuple[str, tuple[int, ...]]]) -> None:
    tensors = ((name, torch.zeros(shape)) for name, shape in stream)
    with pytest.raises(AssertionError, match="not"):
        write_safetensors(tmp_path, {"a": (2,), "b": (2,)}, torch.float32, tensors, 10**9)


def test_truncated_shard(tmp_path: Path) -> None:
    write(tmp_path, some_tensors(torch.float32), torch.float32, 100)
    file = tmp_path / json.loads((tmp_path / INDEX).read_text())["weight_map"]["large"]
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ConversionError, match=f"{file.name} is damaged or truncated"):
        SafetensorsReader(tmp_path).read("large")


def test_index_that_names_a_tensor_the_file_lacks(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "x.safetensors")
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": "x.safetensors", "b": "x.safetensors"}}))
    with pytest.raises(ConversionError, match=r"x\.safetensors is damaged"):
        SafetensorsReader(tmp_path).shape("b")


def test_index_that_names_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}))
    with pytest.raises(ConversionError, match=r"gone.safetensors, which is not there"):
        SafetensorsReader(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": 3}'])
def test_damaged_index(tmp_path: Path, content: str) -> None:
    (tmp_path / INDEX).write_text(content)
    with pytest.raises(ConversionError, match=f"{INDEX} is damaged"):
        SafetensorsReader(tmp_path)


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2, dtype=torch.int8)}, tmp_path / SINGLE)
    with pytest.raises(ConversionError, match="a has type I8, known are F32"):
        SafetensorsReader(tmp_path).dtype("a")
