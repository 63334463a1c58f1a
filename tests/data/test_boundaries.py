"""Document boundaries of a sample: the C++ against a plain-Python twin, and against samples of megatron-core's GPTDataset."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_bielik.data.boundaries import loss_mask, positions, sample_cu_seqlens
from megatron_bielik.data.shards import ShardReader, ShardWriter

Position = tuple[int, int]


def python_cu_seqlens(order: list[int], lengths: list[int], begin: Position, end: Position, sequence: int) -> list[int]:
    """The twin: lists the document of every token, then looks for changes."""
    owner: list[int] = []
    for position in range(begin[0], end[0] + 1):
        first = begin[1] if position == begin[0] else 0
        stop = end[1] + 1 if position == end[0] else lengths[order[position]]
        owner += [position] * (stop - first)
    owner = owner[:sequence]
    owner += [-1] * (sequence - len(owner))
    return [0, *(i for i in range(1, sequence) if owner[i] != owner[i - 1]), sequence]


def python_sample_index(order: list[int], lengths: list[int], sequence: int) -> list[Position]:
    """Where samples begin: token number k * sequence of the documents laid end to end."""
    where = [(p, offset) for p, document in enumerate(order) for offset in range(lengths[document])]
    return [where[k] for k in range(0, len(where), sequence)]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_twin(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(0, 12), min_size=1, max_size=30))
    order = data.draw(st.permutations(range(len(lengths))))
    sequence = data.draw(st.integers(1, 20))
    index = python_sample_index(order, lengths, sequence)
    dtype = data.draw(st.sampled_from([np.int32, np.int64]))
    documents, sizes = np.array(order, dtype=dtype), np.array(lengths, dtype=np.int32)
    for begin, end in pairwise(index):
        bounds = sample_cu_seqlens(documents, sizes, *begin, *end, sequence)
        assert bounds.dtype == np.int32
        assert bounds.tolist() == python_cu_seqlens(order, lengths, begin, end, sequence)
        expected = [i - max(b for b in bounds.tolist() if b <= i) for i in range(sequence)]
        assert positions(bounds).tolist() == expected
        crosses = end[0] > begin[0] and end[1] == 0
        mask = [0.0 if (i + 1 in bounds and i + 1 < sequence) else 1.0 for i in range(sequence)]
        mask[-1] = 0.0 if crosses else 1.0
        assert loss_mask(bounds, crosses).tolist() == mask


@pytest.mark.parametrize("seed", [0, 1])
def test_real_samples_of_gpt_dataset(tmp_path: Path, seed: int) -> None:
    """Every document ends with token 0 and has no other: the boundaries must stand right after the zeros."""
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
    from megatron.core.datasets.indexed_dataset import IndexedDataset
    from megatron.core.datasets.utils import Split

    rng = np.random.default_rng(seed)
    with ShardWriter(tmp_path / "data", 100) as writer:
        for length in rng.integers(0, 40, size=200):
            writer.add_document([*rng.integers(1, 100, size=length), 0] if length else [])

    class Tokenizer:
        eod, pad, vocab_size, unique_identifiers = 0, 99_999, 100, {"name": "test"}

    config = GPTDatasetConfig(
        random_seed=seed,
        sequence_length=64,
        blend=([str(tmp_path / "data")], None),
        split="1",
        path_to_cache=str(tmp_path / "cache"),
        tokenizer=Tokenizer(),  # type: ignore[arg-type]
        reset_position_ids=True,
        reset_attention_mask=False,
        eod_mask_loss=False,
        mid_level_dataset_surplus=0.005,
    )
    low_level = IndexedDataset(str(tmp_path / "data"))
    documents = np.arange(200, dtype=np.int32)
    dataset = GPTDataset(low_level, str(tmp_path / "data"), documents, 40, Split.train, config)
    reader = ShardReader(tmp_path / "data")
    for number in range(len(dataset)):
        text, _ = dataset._query_document_sample_shuffle_indices(number)
        at = int(dataset.shuffle_index[number])
        begin, end = dataset.sample_index[at], dataset.sample_index[at + 1]
        bounds = sample_cu_seqlens(np.asarray(dataset.document_index), reader.lengths, *begin, *end, 64)
        ends = [i + 1 for i in range(63) if text[i] == 0]
        assert bounds.tolist() == [0, *ends, 64]
        crosses = bool(end[0] > begin[0] and end[1] == 0)
        assert crosses == bool(text[63] == 0)
        assert loss_mask(bounds, crosses).tolist() == [0.0 if token == 0 else 1.0 for token in text[:64]]
        assert positions(bounds).tolist() == dataset[number]["position_ids"].tolist()


def test_padding_of_a_partial_sample_is_a_document() -> None:
    order, lengths = np.array([0, 1], dtype=np.int32), np.array([3, 2], dtype=np.int32)
    assert sample_cu_seqlens(order, lengths, 0, 0, 1, 1, 8).tolist() == [0, 3, 5, 8]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0, 5, 0, 4), "positions 0 to 5 of a document index with 2 entries"),
        ((1, 0, 0, 0, 4), "positions 1 to 0"),
        ((0, 4, 1, 0, 4), "takes tokens 4 to 3 of document 0, which has 3"),
        ((0, 0, 1, 2, 9), "takes tokens 0 to 3 of document 1, which has 2"),
        ((0, 0, 1, 0, 0), "sequence_length is 0"),
    ],
)
def test_arguments_outside_the_arrays_are_refused(arguments: tuple[int, int, int, int, int], message: str) -> None:
    order, lengths = np.array([0, 1], dtype=np.int32), np.array([3, 2], dtype=np.int32)
    with pytest.raises(ValueError, match=message):
        sample_cu_seqlens(order, lengths, *arguments)


def test_wrong_arrays_are_refused() -> None:
    lengths = np.array([3, 2], dtype=np.int32)
    with pytest.raises(ValueError, match=r"document_index\[1\] is 7, there are 2 documents"):
        sample_cu_seqlens(np.array([0, 7], dtype=np.int32), lengths, 0, 0, 1, 0, 3 + 1)
    with pytest.raises(TypeError):
        sample_cu_seqlens(np.array([0.0, 1.0]), lengths, 0, 0, 1, 0, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        sample_cu_seqlens(np.arange(4, dtype=np.int32)[::2], lengths, 0, 0, 1, 0, 3)
    with pytest.raises(ValueError, match="begins with 0"):
        positions(np.array([1, 2], dtype=np.int32))
    with pytest.raises(ValueError, match="falls from 5 to 2"):
        loss_mask(np.array([0, 5, 2], dtype=np.int32), False)
    assert positions(np.array([0], dtype=np.int32)).tolist() == []
