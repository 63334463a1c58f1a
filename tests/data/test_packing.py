"""Best-fit decreasing packing against a plain-Python twin, and against the bounds that any packing obeys."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_bielik import _packing
from megatron_bielik.data.errors import DataError
from megatron_bielik.data.packing import Packing, Split, pack, pack_documents

Piece = tuple[int, int, int]


def pieces_of(lengths: list[int], capacity: int, split: str) -> list[Piece]:
    """Item, start and length of each piece, in order."""
    pieces = []
    for item, length in enumerate(lengths):
        if length <= capacity:
            pieces.append((item, 0, length))
        elif split == "cut":
            pieces += [(item, at, min(capacity, length - at)) for at in range(0, length, capacity)]
    return pieces


def python_pack(lengths: list[int], capacity: int, split: str) -> list[list[Piece]]:
    """The twin: one piece at a time, looking at every bin."""
    bins: list[list[Piece]] = []
    filled: list[int] = []
    for piece in sorted(pieces_of(lengths, capacity, split), key=lambda piece: -piece[2]):
        fitting = [number for number in range(len(bins)) if filled[number] + piece[2] <= capacity]
        if not fitting:
            bins.append([])
            filled.append(0)
            fitting = [len(bins) - 1]
        best = max(fitting, key=lambda number: (filled[number], -number))
        bins[best].append(piece)
        filled[best] += piece[2]
    return bins


def bins_of(packing: Packing, lengths: list[int]) -> list[list[Piece]]:
    bins = []
    for number in range(len(packing)):
        entries = range(int(packing.offsets[number]), int(packing.offsets[number + 1]))
        starts = [0 if packing.starts is None else int(packing.starts[entry]) for entry in entries]
        items = packing[number].tolist()
        bins.append(
            [
                (item, start, min(packing.capacity, lengths[item] - start))
                for item, start in zip(items, starts, strict=True)
            ]
        )
    return bins


@settings(max_examples=600, deadline=None)
@given(data=st.data())
def test_twin(data: st.DataObject) -> None:
    capacity = data.draw(st.sampled_from([1, 2, 3, 7, 16, 64, 100]))
    split: Split = data.draw(st.sampled_from(["error", "drop", "cut"]))
    largest = capacity if split == "error" else 4 * capacity
    few = data.draw(st.lists(st.integers(0, largest), min_size=1, max_size=8))
    lengths = data.draw(st.lists(st.sampled_from(few) | st.integers(0, largest), max_size=120))
    expected = python_pack(lengths, capacity, split)
    for array in (np.array(lengths, dtype=np.int32), np.array(lengths, dtype=np.int64)):
        packing = pack(array, capacity, split)
        assert bins_of(packing, lengths) == expected
        assert packing.items.dtype == np.int32
        assert packing.tokens == sum(piece[2] for pieces in expected for piece in pieces)
    _offsets, items, starts, _ = _packing.pack(np.array(lengths, dtype=np.int32), capacity, split, True)
    assert items.dtype == np.int64
    assert items.tolist() == packing.items.tolist()
    assert (starts is None) == (split != "cut")
    if split != "cut":
        where = packing.bin_of(len(lengths))
        assert {(item, int(number)) for item, number in enumerate(where) if number >= 0} == {
            (piece[0], number) for number, pieces in enumerate(expected) for piece in pieces
        }


@pytest.mark.parametrize("capacity", [512, 2048])
def test_twin_on_a_corpus(capacity: int) -> None:
    lengths = np.random.default_rng(capacity).lognormal(5, 1.3, 4000).astype(np.int32)
    packing = pack_documents(lengths, capacity)
    assert bins_of(packing, lengths.tolist()) == python_pack(lengths.tolist(), capacity, "cut")
    assert packing.efficiency > 0.98
    assert packing.tokens == lengths.sum()


def test_every_token_once_among_a_million() -> None:
    lengths = np.random.default_rng(0).lognormal(6, 1.4, 1_000_000).astype(np.int32)
    packing = pack_documents(lengths, 4096)
    assert packing.starts is not None
    sizes = np.minimum(4096, lengths[packing.items] - packing.starts)
    assert int(np.add.reduceat(sizes, packing.offsets[:-1]).max()) <= 4096
    order = np.lexsort((packing.starts, packing.items))
    items, starts = packing.items[order], packing.starts[order]
    assert np.array_equal(np.bincount(items, minlength=len(lengths)), np.maximum(1, -(-lengths // 4096)))
    first = np.flatnonzero(np.diff(items, prepend=-1))
    assert not starts[first].any()
    assert (np.diff(starts)[np.diff(items) == 0] == 4096).all()
    assert len(packing) <= 1.01 * lengths.sum() / 4096 + 1
    whole = pack(np.minimum(lengths, 4096), 4096)
    assert np.array_equal(np.sort(whole.items), np.arange(len(lengths)))


def test_edges() -> None:
    empty = pack(np.empty(0, dtype=np.int32), 8)
    assert (len(empty), empty.offsets.tolist(), empty.items.tolist(), empty.efficiency) == (0, [0], [], 1.0)
    assert empty.bin_of(0).tolist() == []
    zeros = pack(np.zeros(3, dtype=np.int32), 8)
    assert (zeros.offsets.tolist(), zeros.items.tolist(), zeros.efficiency) == ([0, 3], [0, 1, 2], 0.0)
    assert pack(np.array([9, 9], dtype=np.int32), 8, "drop").bin_of(2).tolist() == [-1, -1]
    cut = pack_documents(np.array([17, 8, 3], dtype=np.int32), 8)
    assert cut.items.tolist() == [0, 0, 1, 2, 0]
    assert cut.starts is not None
    assert cut.starts.tolist() == [0, 8, 0, 0, 16]
    assert cut[-1].tolist() == [2, 0]
    with pytest.raises(IndexError, match="bin 4 asked for, there are 4"):
        cut[4]
    with pytest.raises(DataError, match="needs whole items"):
        cut.bin_of(3)


def test_lengths_of_a_shard_need_not_be_aligned() -> None:
    lengths = np.arange(1, 50, dtype=np.int32)
    raw = np.frombuffer(b"\0" * 3 + lengths.tobytes(), dtype=np.uint8)[3:].view(np.int32)
    assert not raw.flags.aligned
    assert np.array_equal(pack(raw, 64).items, pack(lengths, 64).items)


def test_bad_arguments() -> None:
    lengths = np.array([1, 9, 2], dtype=np.int32)
    with pytest.raises(DataError, match=r"packing: length 1 is 9, the capacity is 8; cut or drop what is longer"):
        pack(lengths, 8)
    with pytest.raises(DataError, match="capacity is 0, needs 1 to 268435456"):
        pack(lengths, 0)
    with pytest.raises(DataError, match="split is 'none', needs error, drop or cut"):
        pack(lengths, 8, "none")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="length 1 is -9, needs 0 or more"):
        pack(-lengths * np.array([0, 1, 0], dtype=np.int32), 8)
    with pytest.raises(DataError, match="one row"):
        pack(np.zeros((2, 2), dtype=np.int32), 8)
    with pytest.raises(TypeError):
        pack(lengths.astype(np.float64), 8)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        pack(lengths[::2], 8)
