"""The safetensors writer against the safetensors library, and the reader on files that are not what they should be."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_bielik.surgery.safetensors_files import (
    INDEX,
    SINGLE,
    ConversionError,
    SafetensorsReader,
    plan_shards,
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


def test_rows_and_blocks(tmp_path: Path) -> None:
    """Parts of a tensor are its parts, whatever their size, across shards and types."""
    tensors = some_tensors(torch.bfloat16) | {"number": torch.tensor(3.5, dtype=torch.bfloat16)}
    tensors["empty"] = torch.empty(0, 4, dtype=torch.bfloat16)
    write(tmp_path, tensors, torch.bfloat16, 500)
    reader = SafetensorsReader(tmp_path)
    assert torch.equal(reader.read_rows("large", 7, 12), tensors["large"][7:12])
    assert reader.read_rows("large", 40, 40).shape == (0, 10)
    for start, stop in ((-1, 3), (3, 2), (0, 41)):
        with pytest.raises(IndexError, match=f"rows {start} to {stop} of large, which has 40"):
            reader.read_rows("large", start, stop)
    for name, tensor in tensors.items():
        assert torch.equal(reader.read(name), tensor)
        for block_bytes in (1, 50, 64, 10**6):
            blocks = list(reader.row_blocks(name, block_bytes))
            assert all(len(block) == 1 or block.nbytes <= block_bytes for block in blocks if block.ndim)
            if tensor.numel():
                assert torch.equal(torch.cat(blocks) if tensor.ndim else blocks[0], tensor)


def test_blocks_are_written_as_they_come(tmp_path: Path) -> None:
    """A matrix of 16 MB passes through in rows; the next block is asked for only when the one before is in the file."""
    sizes: list[int] = []

    def rows() -> Iterator[torch.Tensor]:
        for number in range(4):
            sizes.append(sum(path.stat().st_size for path in tmp_path.iterdir()))
            yield torch.full((1000, 1000), float(number))

    write_safetensors(tmp_path, {"a": (4000, 1000)}, torch.float32, [("a", rows())], 10**9)
    assert all(later - earlier > 3_900_000 for earlier, later in pairwise(sizes))
    assert torch.equal(load_file(tmp_path / SINGLE)["a"][::1000, 5], torch.arange(4.0))


@pytest.mark.parametrize("blocks", [[(1, 3), (2, 3)], [(2, 3), (2, 3), (1, 3)], [(4, 2), (1, 4)], [(4, 3, 1)]])
def test_blocks_that_are_not_the_tensor_are_a_bug(tmp_path: Path, blocks: list[tuple[int, ...]]) -> None:
    with pytest.raises(AssertionError, match="of a"):
        write_safetensors(tmp_path, {"a": (4, 3)}, torch.float32, [("a", map(torch.zeros, blocks))], 10**9)


def test_types_by_name(tmp_path: Path) -> None:
    tensors = {
        "half": torch.randn(3).half(),
        "number": torch.arange(5),
        "truth": torch.tensor([True, False]),
        "byte": torch.tensor([[255, 1]], dtype=torch.uint8),
    }
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
    assert plan_shards(shapes, dtypes, 46) == {
        "model-00001-of-00002.safetensors": ["half", "number"],
        "model-00002-of-00002.safetensors": ["truth", "byte"],
    }
    write_safetensors(tmp_path, shapes, dtypes, tensors.items(), 46)
    found = {**load_file(tmp_path / "model-00001-of-00002.safetensors"),
             **load_file(tmp_path / "model-00002-of-00002.safetensors")}  # fmt: skip
    reader = SafetensorsReader(tmp_path)
    for name, tensor in tensors.items():
        assert found[name].dtype == reader.stored_dtype(name) == tensor.dtype
        assert torch.equal(found[name], tensor)
        assert torch.equal(reader.read(name), tensor)
        assert reader.nbytes(name) == tensor.nbytes


def test_order_is_that_of_the_bytes(tmp_path: Path) -> None:
    """Files by name, tensors by place: whoever follows it reads the disk from beginning to end."""
    write(tmp_path, some_tensors(torch.float32), torch.float32, 100)
    assert list(SafetensorsReader(tmp_path).files) == ["a.weight", "b", "ł/odd name", "large"]
    assert list(json.loads((tmp_path / INDEX).read_text())["weight_map"]) == ["a.weight", "b", "large", "ł/odd name"]


@pytest.mark.parametrize(
    "change", [lambda b: b[:-1], lambda b: b + b"0", lambda b: b[:60], lambda b: b[:5], lambda b: b""]
)
@pytest.mark.parametrize("name", ["large", "b"])
def test_truncated_shard(name: str, change: Callable[[bytes], bytes], tmp_path: Path) -> None:
    """Found before any tensor is read, in whichever shard it is."""
    write(tmp_path, some_tensors(torch.float32), torch.float32, 70)
    file = tmp_path / json.loads((tmp_path / INDEX).read_text())["weight_map"][name]
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(ConversionError, match=f"{file.name} is damaged or truncated") as found:
        SafetensorsReader(tmp_path)
    assert "\n" not in str(found.value)


def entry(shape: Any = (2,), offsets: Any = (0, 8), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


HEADERS: dict[str, Any] = {
    "no json": None,
    "a list": [],
    "a number": 3,
    "no offsets": {"a": {"dtype": "F32", "shape": [2]}},
    "a string as tensor": {"a": "F32"},
    "negative": {"a": entry(offsets=[-8, 0])},
    "backwards": {"a": entry(offsets=[8, 0])},
    "negative shape": {"a": entry(shape=[-2])},
    "fractional shape": {"a": entry(shape=[2.0])},
    "more bytes than elements": {"a": entry(shape=[1])},
    "a hole": {"a": entry(shape=[1], offsets=[0, 4]), "b": entry(shape=[0], offsets=[8, 8])},
    "an overlap": {"a": entry(), "b": entry(shape=[1], offsets=[4, 8])},
    "beyond the end": {"a": entry(shape=[3], offsets=[0, 12])},
    "a list as type": {"a": entry(dtype=["F32"])},
}


@pytest.mark.parametrize("name", HEADERS)
def test_damaged_header(name: str, tmp_path: Path) -> None:
    encoded = b"{oops" if HEADERS[name] is None else json.dumps(HEADERS[name]).encode()
    (tmp_path / SINGLE).write_bytes(struct.pack("<Q", len(encoded)) + encoded + bytes(8))
    with pytest.raises(ConversionError, match=f"{SINGLE} is damaged or truncated"):
        SafetensorsReader(tmp_path)


def test_a_header_length_of_exabytes(tmp_path: Path) -> None:
    (tmp_path / SINGLE).write_bytes(struct.pack("<Q", 2**60) + bytes(100))
    with pytest.raises(ConversionError, match="108 bytes cannot hold its header"):
        SafetensorsReader(tmp_path)


def test_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    write(tmp_path, some_tensors(torch.float32), torch.float32, 10**9)
    reader = SafetensorsReader(tmp_path)
    (tmp_path / SINGLE).write_bytes((tmp_path / SINGLE).read_bytes()[:-1])
    with pytest.raises(ConversionError, match="it became shorter"):
        reader.read("large")


def test_index_that_names_a_tensor_the_file_lacks(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "x.safetensors")
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": "x.safetensors", "b": "x.safetensors"}}))
    with pytest.raises(ConversionError, match=r"x\.safetensors is damaged: b, which .* names, is not in it"):
        SafetensorsReader(tmp_path)


@pytest.mark.parametrize("file", ["../x.safetensors", "/etc/passwd", "sub/x.safetensors", "", 3])
def test_index_that_names_a_file_elsewhere(file: Any, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "model" / "sub"):
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"a": torch.zeros(2)}, folder / "x.safetensors")
    (tmp_path / "model" / INDEX).write_text(json.dumps({"weight_map": {"a": file}}))
    with pytest.raises(ConversionError, match="which is no file of its folder"):
        SafetensorsReader(tmp_path / "model")


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
