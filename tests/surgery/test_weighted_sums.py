"""Weighted sums of stored tensors: rounding against numpy, every 16-bit number, threads, and what is refused."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from megatron_bielik.surgery import weighted_sums
from megatron_bielik.surgery.safetensors_files import ConversionError, SafetensorsReader
from megatron_bielik.surgery.weighted_sums import Sum, Term, WeightedSums, round_once

FLOATS = [torch.bfloat16, torch.float16, torch.float32]
# Fraction bits, smallest normal exponent and largest number, by IEEE 754 and the definition of bfloat16.
FORMATS = {
    torch.bfloat16: (7, -126, (2 - 2.0**-7) * 2.0**127),
    torch.float16: (10, -14, 65504.0),
    torch.float32: (23, -126, (2 - 2.0**-23) * 2.0**127),
}
Floats = NDArray[np.float64]


def nearest(values: Floats, dtype: torch.dtype) -> Floats:
    """Correctly rounded, ties to even: numpy's rint on multiples of the last place, which are powers of two."""
    fraction, smallest, largest = FORMATS[dtype]
    exponent = np.maximum(np.frexp(values)[1] - 1, smallest)
    place = np.ldexp(1.0, exponent - fraction)
    rounded: Floats = np.rint(values / place) * place
    return np.where(np.abs(rounded) > largest, np.copysign(np.inf, values), rounded)


def rounded_once(values: Floats, dtype: torch.dtype) -> torch.Tensor:
    numbers = torch.from_numpy(values.copy())
    return round_once(numbers, dtype, torch.empty_like(numbers))


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.int16 if tensor.element_size() == 2 else torch.int32)


def same_bits(one: torch.Tensor, two: torch.Tensor) -> bool:
    """Equal bit for bit, -0.0 and 0.0 apart; one NaN is as good as another."""
    assert one.dtype == two.dtype
    return bool(((bits(one) == bits(two)) | (one.isnan() & two.isnan())).all())


def stored(folder: Path, tensors: dict[str, torch.Tensor]) -> SafetensorsReader:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    return SafetensorsReader(folder)


def sums(wanted: list[Sum], threads: int = 2) -> dict[str, torch.Tensor]:
    """The whole tensors, in the order in which they came."""
    with WeightedSums(threads) as pool:
        parts = [(item, name, list(blocks)) for item, (name, blocks) in zip(wanted, pool.sums(wanted), strict=True)]
    return {
        name: torch.cat(blocks) if blocks and item.shape else blocks[0] if blocks else torch.empty(item.shape)
        for item, name, blocks in parts
    }


def weighted(
    reader: SafetensorsReader, weights: dict[str, float], dtype: torch.dtype, threads: int = 2
) -> torch.Tensor:
    """The sum of stored tensors by name."""
    shape = reader.shape(next(iter(weights)))
    terms = [Term(reader, name, weight) for name, weight in weights.items()]
    return sums([Sum("sum", shape, dtype, terms)], threads)["sum"]


@pytest.mark.parametrize("dtype", FLOATS)
def test_rounds_to_nearest(dtype: torch.dtype) -> None:
    """Numbers of all sizes, and the middles between two neighbours with the least that float64 can add or take away."""
    fraction, smallest, _ = FORMATS[dtype]
    generator = np.random.default_rng(0)
    exponents = generator.integers(smallest, min(-smallest, 127), 50_000)
    significands = 1 + generator.random(50_000)
    middles = 1 + (2 * generator.integers(0, 2**fraction, 50_000) + 1) / 2 ** (fraction + 1)
    signs = generator.choice([-1.0, 1.0], 50_000)
    values = np.concatenate(
        [
            signs * np.ldexp(significand, exponents)
            for significand in (significands, middles, np.nextafter(middles, 3), np.nextafter(middles, 0))
        ]
    )
    expected = nearest(values, dtype)
    assert np.array_equal(rounded_once(values, dtype).double().numpy(), expected)
    if dtype != torch.float32:  # what torch does by itself, over float32, is not it
        assert (torch.from_numpy(values).to(dtype).double().numpy() != expected).sum() > 10_000


@pytest.mark.parametrize("dtype", FLOATS)
def test_rounds_at_the_edges(dtype: torch.dtype) -> None:
    """Overflow begins in the middle above the largest number; zeros keep their sign; fp16 is exact below its normals too."""
    fraction, smallest, largest = FORMATS[dtype]
    middle = largest + largest / (2 ** (fraction + 1) - 1) / 2
    edges = np.array([largest, np.nextafter(middle, 0), middle, np.inf, 0.0, 1e-300])
    edges = np.concatenate([edges, -edges])
    found = rounded_once(edges, dtype)
    assert same_bits(found, torch.from_numpy(nearest(edges, dtype)).to(dtype))
    assert found[:4].isinf().tolist() == [False, False, True, True]
    assert rounded_once(np.array([np.nan, -np.nan]), dtype).isnan().all()
    below = np.ldexp(np.random.default_rng(1).uniform(-1, 1, 50_000), smallest)
    expected = nearest(below, dtype)
    errors = np.abs(rounded_once(below, dtype).double().numpy() - expected)
    # bf16 has no smaller numbers than float32, whose rounding may come first there: rarely, and by one last place.
    allowed = 2.0 ** (smallest - fraction) if dtype == torch.bfloat16 else 0.0
    assert errors.max() <= allowed
    assert (errors > 0).mean() < 1e-3


@pytest.mark.parametrize("weights", [(1 / 3, 1 / 3, 1 / 3), (0.5, 0.3, 0.2), (0.7, 0.3), (1.0,)])
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_mean_of_equals_is_the_same_bit_for_bit(
    dtype: torch.dtype, weights: tuple[float, ...], tmp_path: Path
) -> None:
    """Every 16-bit number there is, or a million 32-bit ones: -0.0, subnormals, infinities and NaNs are among them."""
    if dtype == torch.float32:
        patterns = torch.randint(-(2**31), 2**31, (2**20,), generator=torch.Generator().manual_seed(0))
        patterns[:65536] = torch.arange(65536) << 16
        numbers = patterns.to(torch.int32).view(dtype)
    else:
        numbers = torch.arange(65536).to(torch.int16).view(dtype)
    assert numbers.isinf().sum() == 2
    assert numbers.isnan().any()
    assert ((numbers == 0) & numbers.signbit()).any()
    names = {f"t{number}": weight for number, weight in enumerate(weights)}
    reader = stored(tmp_path, {name: numbers.clone() for name in names})
    assert same_bits(weighted(reader, names, dtype), numbers)


def test_types_are_mixed_in_float64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weighted_sums, "_BLOCK", 500)
    generator = torch.Generator().manual_seed(2)
    tensors = {str(dtype): torch.randn(300, 7, generator=generator).to(dtype) for dtype in [*FLOATS, torch.float64]}
    weights = dict(zip(tensors, (0.4, -1.5, 3.0, 1e-3), strict=True))
    expected = sum(weight * tensors[name].double().numpy() for name, weight in weights.items())
    reader = stored(tmp_path, tensors)
    assert np.array_equal(weighted(reader, weights, torch.float64).numpy(), expected)
    for dtype in FLOATS:
        found = weighted(reader, weights, dtype)
        assert found.dtype == dtype
        assert np.array_equal(found.double().numpy(), nearest(expected, dtype))


def test_weights_of_zero(tmp_path: Path) -> None:
    """0 times infinity would be NaN: such a term is left out. Where nothing else is, it is a sum of zeros."""
    fine, wild = torch.tensor([1.5, -0.0, 2.0]), torch.tensor([torch.inf, torch.nan, 1.0])
    reader = stored(tmp_path, {"fine": fine, "wild": wild})
    assert same_bits(weighted(reader, {"wild": 0.0, "fine": 1.0}, torch.float32), fine)
    assert weighted(reader, {"fine": 0.0, "wild": 0.0}, torch.float32).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("block", [1, 7, 64, 2**18])
def test_shapes_and_blocks(block: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Numbers, empty tensors, and rows longer than a block: whole rows, in the order of the wish."""
    monkeypatch.setattr(weighted_sums, "_BLOCK", block)
    shapes = {
        "wide": (3, 50),
        "tall": (40, 3),
        "deep": (4, 3, 2),
        "number": (),
        "none": (0, 5),
        "hollow": (5, 0),
        "v": (99,),
    }
    generator = torch.Generator().manual_seed(3)
    readers = [
        stored(tmp_path / name, {n: torch.randn(shape, generator=generator) for n, shape in shapes.items()})
        for name in "ab"
    ]
    wanted = [
        Sum(name, shape, torch.float32, [Term(reader, name, weight) for reader, weight in zip(readers, (2.0, -1.0), strict=True)])
        for name, shape in shapes.items()
    ]  # fmt: skip
    found = sums(wanted)
    assert list(found) == list(shapes)
    for name, shape in shapes.items():
        assert tuple(found[name].shape) == shape
        assert torch.equal(found[name], (2 * readers[0].read(name).double() - readers[1].read(name)).float())
    with WeightedSums(2) as pool:
        for item, (_, blocks) in zip(wanted, pool.sums(wanted), strict=True):
            sizes = [(len(part) if item.shape else 1, part.numel()) for part in blocks]
            assert all(elements <= block or rows == 1 for rows, elements in sizes)
            assert len(sizes) > 1 or item.rows == 1 or item.row_size * item.rows <= block


def test_threads_do_not_change_a_bit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(weighted_sums, "_BLOCK", 1000)
    generator = torch.Generator().manual_seed(4)
    reader = stored(tmp_path, {name: torch.randn(100_000, generator=generator).bfloat16() for name in "ab"})
    one, many = (weighted(reader, {"a": 0.3, "b": 0.7}, torch.bfloat16, threads) for threads in (1, 5))
    assert same_bits(one, many)
    products = []
    for threads in (1, 5):
        with WeightedSums(threads) as pool:
            products.append(pool.products(Term(reader, "a", 0.0), Term(reader, "b", 9.0)))
    assert products[0] == products[1]
    a, b = (reader.read(name).double().numpy() for name in "ab")
    assert products[0] == pytest.approx((np.sum(a * a), np.sum(b * b), np.sum(a * b)), rel=1e-12)


def test_products_of_nothing(tmp_path: Path) -> None:
    reader = stored(tmp_path, {"a": torch.zeros(0, 4)})
    with WeightedSums(1) as pool:
        assert pool.products(Term(reader, "a", 1.0), Term(reader, "a", 1.0)) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("numbers", [torch.tensor([2**53 + 1, -7]), torch.tensor([True, False])])
def test_whole_numbers_are_not_summed(numbers: torch.Tensor, tmp_path: Path) -> None:
    """2^53 + 1 is no float64: it passes as it is, where all models agree."""
    other = numbers.clone()
    other[1] = 1
    reader = stored(tmp_path, {"a": numbers, "b": numbers.clone(), "c": other})
    assert torch.equal(weighted(reader, {"a": 0.5, "b": 0.5}, numbers.dtype), numbers)
    with pytest.raises(ConversionError, match=r"sum holds whole numbers \(torch\..*\) that differ"):
        weighted(reader, {"a": 0.5, "b": 0.3, "c": 0.2}, numbers.dtype)


class _Counting:
    """A stand-in for a reader: counts the blocks that were read, and notes how many threads torch had for each."""

    def __init__(self) -> None:
        self.reads = 0
        self.torch_threads: set[int] = set()
        self._lock = threading.Lock()

    def stored_dtype(self, name: str) -> torch.dtype:
        return torch.float32

    def read_into(self, name: str, offset: int, target: torch.Tensor) -> None:
        with self._lock:
            self.reads += 1
            self.torch_threads.add(torch.get_num_threads())
        target.fill_(offset / 4)


def test_looks_ahead_no_further_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded: however slow the one who takes the blocks is, few are made beyond them."""
    monkeypatch.setattr(weighted_sums, "_BLOCK", 1)
    reader = _Counting()
    with WeightedSums(2) as pool:
        ((_, blocks),) = pool.sums([Sum("a", (500,), torch.float32, [Term(reader, "a", 1.0)])])
        assert reader.reads == 0
        for number, block in enumerate(blocks):
            assert block.tolist() == [number]
            assert reader.reads <= number + 2 + 2 // 2 + 2
    assert reader.reads == 500


def test_torch_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """One each while blocks are summed; afterwards as many as before, in threads to come too."""
    monkeypatch.setattr(weighted_sums, "_BLOCK", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        reader = _Counting()
        sums([Sum("a", (50,), torch.float32, [Term(reader, "a", 1.0)])], threads=3)
        assert reader.torch_threads == {1}
        assert torch.get_num_threads() == 2
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 2
    finally:
        torch.set_num_threads(before)


def test_a_file_that_shrinks_is_an_error_of_the_one_who_takes(tmp_path: Path) -> None:
    reader = stored(tmp_path, {"a": torch.zeros(600_000)})
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ConversionError, match="damaged or truncated"):
        weighted(reader, {"a": 1.0}, torch.float32)
