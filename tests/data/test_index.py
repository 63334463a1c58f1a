"""Indices against megatron-core's own functions and numpy's shuffle, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import megatron_bielik.parallel  # noqa: F401  (hides megatron-core's notes about optional packages)
from megatron_bielik import _index
from megatron_bielik.data import index as ours
from megatron_bielik.data.errors import DataError


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and bool((one == other).all())


def same_state(one: np.random.RandomState, other: np.random.RandomState) -> bool:
    pairs = zip(one.get_state(), other.get_state(), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


# ---- shuffle, document and shuffle index ----


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int64, np.int16])
@pytest.mark.parametrize("size", [0, 1, 2, 3, 255, 256, 257, 4095, 4096, 4097, 5000, 70_001])
def test_shuffle_is_that_of_numpy_and_leaves_its_state(size: int, dtype: type) -> None:
    for used in (0, 1, 623, 624, 1000):
        theirs, mine = np.random.RandomState(size), np.random.RandomState(size)
        for state in (theirs, mine):
            state.randint(0, 2**32, used, dtype=np.uint32)
            state.standard_normal(1)  # leaves a second one in the state
        expected: np.ndarray = np.arange(size).astype(dtype)
        found = expected.copy()
        theirs.shuffle(expected)
        ours.shuffle(found, mine)
        assert same(expected, found)
        assert same_state(theirs, mine)
        assert theirs.standard_normal() == mine.standard_normal()


@pytest.mark.parametrize("largest", [2**32, 2**32 + 1, 2**33 + 5, 2**40, 2**63])
def test_draws_beyond_32_bits(largest: int) -> None:
    """Arrays of more than 2^32 entries do not fit a test; what they draw does: masked 64-bit numbers."""
    state = np.random.RandomState(3)
    words, given_ = state.get_state(legacy=False)["state"]["key"].copy(), state.get_state(legacy=False)["state"]["pos"]
    found, given_ = _index.draw(largest, 2000, words, given_)
    expected = [state.randint(0, largest + 1, dtype=np.uint64) for _ in range(2000)]
    assert found.tolist() == [int(value) for value in expected]
    after = state.get_state(legacy=False)["state"]
    assert given_ == after["pos"]
    assert (words == after["key"]).all()


def test_other_generators_go_to_numpy() -> None:
    expected, found = np.arange(100), np.arange(100)
    np.random.RandomState(np.random.PCG64(1)).shuffle(expected)
    ours.shuffle(found, np.random.RandomState(np.random.PCG64(1)))
    assert same(expected, found)
    strided = np.arange(200)[::2]
    np.random.RandomState(1).shuffle(expected := np.arange(200)[::2].copy())
    ours.shuffle(strided, np.random.RandomState(1))
    assert (expected == strided).all()


@pytest.mark.parametrize("count", [1, 2, 17, 5000])
@pytest.mark.parametrize("epochs", [1, 2, 3])
@pytest.mark.parametrize("separate", [False, True])
def test_document_index_is_that_of_megatron_core(count: int, epochs: int, separate: bool) -> None:
    from megatron.core.datasets.gpt_dataset import _build_document_index

    documents = np.arange(7, 7 + count, dtype=np.int32)
    for given_ in (documents, range(7, 7 + count), documents.astype(np.int64)):
        one, two = np.random.RandomState(5), np.random.RandomState(5)
        expected = _build_document_index(documents, epochs, one, separate)
        assert same(expected, ours.build_document_index(given_, epochs, two, separate))
        assert same_state(one, two)


def test_document_numbers_beyond_int32() -> None:
    first = 2**31 - 2
    index = ours.build_document_index(range(first, first + 4), 2, np.random.RandomState(0), True)
    assert index.dtype == np.int64
    assert sorted(index[:4].tolist()) == sorted(index[4:].tolist()) == list(range(first, first + 4))
    assert ours.build_document_index(range(0), 3, np.random.RandomState(0), True).shape == (0,)
    with pytest.raises(DataError, match="num_epochs is 0, needs 1 or more"):
        ours.build_document_index(range(3), 0, np.random.RandomState(0), False)


@pytest.mark.parametrize(("samples", "total"), [(0, 1), (1, 1), (1, 2), (5, 9), (9, 9), (4000, 10_000)])
def test_shuffle_index_is_that_of_megatron_core(samples: int, total: int) -> None:
    from megatron.core.datasets.gpt_dataset import _build_shuffle_index

    one, two = np.random.RandomState(1), np.random.RandomState(1)
    assert same(_build_shuffle_index(samples, total, one), ours.build_shuffle_index(samples, total, two))
    assert same_state(one, two)
    with pytest.raises(DataError, match="needs 0 to total_size"):
        ours.build_shuffle_index(total + 1, total, one)


# ---- sample index ----


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_sample_index_is_that_of_megatron_core(data: st.DataObject) -> None:
    from megatron.core.datasets import helpers_cpp

    lengths = np.array(data.draw(st.lists(st.integers(0, 12), min_size=1, max_size=40)), dtype=np.int32)
    epochs = data.draw(st.integers(1, 3))
    order = np.random.RandomState(data.draw(st.integers(0, 99))).permutation(np.tile(np.arange(len(lengths)), epochs))
    sequence, drop, extra = data.draw(st.integers(2, 20)), data.draw(st.booleans()), data.draw(st.booleans())
    # Wrong numbers of tokens too: megatron-core then stays at the last document.
    tokens = max(2, int(lengths.sum()) + data.draw(st.sampled_from([0, 0, 0, 50])))
    order32 = order.astype(np.int32)
    for number, function in ((32, helpers_cpp.build_sample_idx_int32), (64, helpers_cpp.build_sample_idx_int64)):
        expected = function(lengths, order32, sequence, epochs, tokens, drop, int(extra))
        for documents in (order32, order.astype(np.int64)):
            found = ours.build_sample_index(
                lengths, documents, sequence, epochs, tokens, drop, extra, threads=3, dtype=f"int{number}"
            )
            assert same(expected, found)
        blocks = ours.sample_index_blocks(
            lengths, order32, sequence, len(expected), extra, 2, f"int{number}", data.draw(st.integers(1, 9))
        )
        assert same(expected, np.concatenate([block.copy() for block in blocks]))


@pytest.mark.parametrize("threads", [1, 3, 5])
@pytest.mark.parametrize("sequence", [3, 300, 100_000])
def test_sample_index_over_many_blocks_of_threads(threads: int, sequence: int) -> None:
    from megatron.core.datasets import helpers_cpp

    rng = np.random.default_rng(0)
    lengths = np.maximum(0, rng.lognormal(0.5, 1.5, 1_200_007) - 1).astype(np.int32)
    lengths[1000:2000] = 0
    order = rng.permutation(len(lengths)).astype(np.int32)
    tokens = int(lengths.sum())
    for drop in (True, False):
        expected = helpers_cpp.build_sample_idx_int32(lengths, order, sequence, 1, tokens, drop, 1)
        assert same(expected, ours.build_sample_index(lengths, order, sequence, 1, tokens, drop, True, threads))
    blocks = ours.sample_index_blocks(lengths, order, sequence, len(expected), True, threads, None, 1 << 18)
    assert same(expected, np.concatenate([block.copy() for block in blocks]))


def test_partial_samples_are_counted_in_float32() -> None:
    from megatron.core.datasets import helpers

    lengths = np.array([16_777_219, 5], dtype=np.int32)
    order = np.array([0, 1, 0, 1, 1, 0], dtype=np.int32)
    expected = helpers.build_sample_idx(lengths, order, 7, 3, 16_777_224, False, True)
    assert same(expected, ours.build_sample_index(lengths, order, 7, 3, 16_777_224, False, True))


def test_sample_index_of_nothing_and_of_nonsense() -> None:
    lengths, order = np.array([3, 4], dtype=np.int32), np.array([0, 1], dtype=np.int32)
    empty = np.empty(0, dtype=np.int32)
    assert ours.build_sample_index(empty, empty, 4, 1, 0).tolist() == [[0, 0]]
    with pytest.raises(DataError, match="there are no documents, but tokens to be cut"):
        ours.build_sample_index(empty, empty, 4, 1, 9)
    with pytest.raises(DataError, match=r"document_index\[1\] is 2, which is none of the 2 documents"):
        ours.build_sample_index(lengths, np.array([0, 2], dtype=np.int32), 2, 1, 7)
    with pytest.raises(DataError, match="has a negative length"):
        ours.build_sample_index(np.array([3, -4], dtype=np.int32), order, 2, 1, 7)
    with pytest.raises(DataError, match="sequence_length is 0"):
        ours.build_sample_index(lengths, order, 0, 1, 7)
    with pytest.raises(TypeError):
        ours.build_sample_index(lengths.astype(np.int64), order, 2, 1, 7)
    with pytest.raises(TypeError):
        ours.build_sample_index(lengths, np.array([0, 9, 1, 9], dtype=np.int32)[::2], 2, 1, 7)


# ---- blend ----


def peer_blend(weights: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    from megatron.core.datasets import helpers

    chosen, samples = np.zeros(size, np.int16), np.zeros(size, np.int64)
    helpers.build_blending_indices(chosen, samples, weights, len(weights), size, False)
    return chosen, samples


def weights_of(kind: str, sets: int) -> np.ndarray:
    rng = np.random.default_rng(sets)
    weights: np.ndarray
    if kind == "equal":
        weights = np.ones(sets)
    elif kind == "tiny":
        weights = 0.7 ** (np.arange(sets) % 60)
    elif kind == "whole":
        weights = np.arange(1, sets + 1, dtype=np.float64)
    elif kind == "zero":
        weights = np.where(np.arange(sets) % 3 == 1, 0.0, 1.0 + np.arange(sets) % 5)
    else:
        weights = rng.lognormal(0, 1, sets)
    return weights / weights.sum()


@pytest.mark.parametrize("kind", ["equal", "tiny", "whole", "zero", "random"])
@pytest.mark.parametrize(
    ("sets", "size"), [(1, 500_001), (2, 700_003), (3, 5), (17, 300_000), (64, 400_001), (300, 100_000)]
)
def test_blend_is_that_of_megatron_core(kind: str, sets: int, size: int) -> None:
    weights = weights_of(kind, sets)
    expected = peer_blend(weights, size)
    for threads in (1, 2):
        found = ours.build_blending_indices(weights, size, threads)
        assert same(found[0], expected[0])
        assert same(found[1], expected[1])
    plain = ours._blend(weights, np.full(sets, np.inf), size, 2, wide=False)
    assert same(plain[0], expected[0])
    assert same(plain[1], expected[1])


@pytest.mark.parametrize("factor", [0.5, 1.01, 3.0])
def test_weights_that_do_not_sum_to_one(factor: float) -> None:
    """Stretches begin with wrong guesses, and are made again until they fit."""
    weights = weights_of("random", 40) * factor
    expected, found = peer_blend(weights, 300_000), ours.build_blending_indices(weights, 300_000, 1)
    assert same(found[0], expected[0])
    assert same(found[1], expected[1])


def test_a_thousand_sets_and_more_than_int16_holds() -> None:
    weights = weights_of("random", 1000)
    expected, found = peer_blend(weights, 30_000), ours.build_blending_indices(weights, 30_000)
    assert same(found[0], expected[0])
    assert same(found[1], expected[1])
    chosen, _ = ours.build_blending_indices(np.full(40_000, 1 / 40_000), 100)
    assert chosen.dtype == np.int32
    assert chosen.tolist() == list(range(100))


@pytest.mark.parametrize(
    "sizes", [[1], [5, 1], [3, 3, 3], [1, 1000, 10], [400_001, 3, 299_999, 1, 77_000], list(range(1, 400))]
)
def test_exhaustive_blend_is_that_of_megatron_core(sizes: list[int]) -> None:
    from megatron.core.datasets import helpers

    total = sum(sizes)
    chosen, samples = np.zeros(total, np.int16), np.zeros(total, np.int64)
    helpers.build_exhaustive_blending_indices(chosen, samples, np.array(sizes, dtype=np.int64), len(sizes))
    for threads in (1, 2):
        found = ours.build_exhaustive_blending_indices(sizes, threads)
        assert same(found[0], chosen)
        assert same(found[1], samples)


@pytest.mark.parametrize("weights", [[], [0.5, -0.1], [float("nan")], [1.0, float("inf")]])
def test_bad_weights(weights: list[float]) -> None:
    with pytest.raises(DataError, match="needs one finite weight that is not negative for each data set"):
        ours.build_blending_indices(weights, 10)
    with pytest.raises(DataError, match="needs at least one data set and one sample"):
        ours.build_exhaustive_blending_indices([3, 0] if weights else [])
