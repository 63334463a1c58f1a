"""A shard as a stream of samples: nothing lost or doubled, megatron-core's cut, the same for ever, and a sturdy cache."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_bielik.data.epochs import Sample, ShardStream, split_documents
from megatron_bielik.data.errors import DataError
from megatron_bielik.data.shards import ShardReader, ShardWriter

ARRAYS = ("documents", "ends", "order")


def write(prefix: Path, lengths: list[int], vocab_size: int = 70_000, first: int = 0) -> Path:
    """A shard whose every token is another number, so that a token tells where it stood."""
    with ShardWriter(prefix, vocab_size) as writer:
        for length in lengths:
            writer.add_document(np.arange(first, first + length))
            first += length
    return prefix


def order_folders(cache: Path) -> list[Path]:
    """Folders of passes in a cache."""
    return sorted(path for path in cache.iterdir() if path.is_dir())


def cached(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of a pass as they lie in the cache."""
    return {name: np.load(folder / f"{name}.npy") for name in ARRAYS}


def a_pass(stream: ShardStream, epoch: int = 0) -> list[Sample]:
    """All samples of a pass, in stream order."""
    return [stream.sample(epoch * stream.samples_per_pass + n) for n in range(stream.samples_per_pass)]


def same(ours: Sample, theirs: Sample) -> bool:
    """Equal in every field."""
    return (
        np.array_equal(ours.tokens, theirs.tokens)
        and np.array_equal(ours.cu_seqlens, theirs.cu_seqlens)
        and ours.last_label_crosses == theirs.last_label_crosses
    )


@settings(max_examples=120, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 25), min_size=1, max_size=25),
    sequence_length=st.integers(1, 12),
    epoch=st.integers(0, 2),
)
def test_pass_is_the_shuffled_documents_cut_up(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], sequence_length: int, epoch: int
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    prefix = write(folder / "shard", lengths)
    if sum(lengths) <= sequence_length:
        with pytest.raises(DataError, match=f"have {sum(lengths)} tokens, one sample needs {sequence_length + 1}"):
            ShardStream(prefix, sequence_length, 1, folder / "cache")
        return
    stream = ShardStream(prefix, sequence_length, 1, folder / "cache")
    assert stream.samples_per_pass == (sum(lengths) - 1) // sequence_length
    samples = a_pass(stream, epoch)
    (cache,) = order_folders(folder / "cache")
    arrays = cached(cache)
    assert sorted(arrays["documents"]) == list(range(len(lengths)))
    assert sorted(arrays["order"]) == list(range(stream.samples_per_pass))

    # The reference: all documents end to end, with the owner of each token.
    reader = ShardReader(prefix)
    flat = np.concatenate([reader[int(d)] for d in arrays["documents"]])
    owner = np.repeat(np.arange(len(lengths)), [lengths[d] for d in arrays["documents"]])
    for sample, cut in zip(samples, arrays["order"], strict=True):
        at = int(cut) * sequence_length
        window = slice(at, at + sequence_length + 1)
        assert sample.tokens.dtype == np.int64
        assert sample.tokens.tolist() == flat[window].tolist()
        changes = (np.flatnonzero(np.diff(owner[window][:-1])) + 1).tolist()
        assert sample.cu_seqlens.tolist() == [0, *changes, sequence_length]
        assert sample.last_label_crosses == bool(owner[window][-1] != owner[window][-2])

    # In cut order: neighbours share one token, and together they are every token once.
    in_order = [sample.tokens for _, sample in sorted(zip(arrays["order"], samples, strict=True), key=lambda p: p[0])]
    for one, following in pairwise(in_order):
        assert one[-1] == following[0]
    seen = np.concatenate([tokens[:-1] for tokens in in_order] + [in_order[-1][-1:]])
    assert len(set(seen.tolist())) == len(seen) == len(samples) * sequence_length + 1
    assert sum(lengths) - len(seen) < sequence_length, "only a last, partial sample is left out"


@pytest.mark.parametrize("lengths", [[0, 1, 1, 0], [64, 128, 64, 1], [1000], [0, 0, 300, 0], [3, 0, 7, 1, 64, 65, 63]])
def test_cut_is_that_of_megatron_core(tmp_path: Path, lengths: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The C++ sample index and GPTDataset's tokens, given our order of the documents."""
    from megatron.core.datasets import gpt_dataset, helpers
    from megatron.core.datasets.indexed_dataset import IndexedDataset
    from megatron.core.datasets.utils import Split

    sequence_length = 64 if sum(lengths) > 64 else 1
    prefix = write(tmp_path / "shard", lengths)
    stream = ShardStream(prefix, sequence_length, 3, tmp_path / "cache")
    samples = a_pass(stream)
    arrays = cached(order_folders(tmp_path / "cache")[0])

    index = helpers.build_sample_idx(
        np.array(lengths, dtype=np.int32), arrays["documents"], sequence_length, 1, sum(lengths), True, True
    )
    begins = np.concatenate(([0], arrays["ends"][:-1]))
    assert [int(begins[p] + offset) for p, offset in index] == [n * sequence_length for n in range(len(samples) + 1)]

    monkeypatch.setattr(gpt_dataset, "_build_document_index", lambda *_: arrays["documents"])
    monkeypatch.setattr(gpt_dataset, "_build_shuffle_index", lambda *_: arrays["order"])

    class Tokenizer:
        eod, pad, vocab_size, unique_identifiers = 0, -1, 70_000, {"name": "test"}

    config = gpt_dataset.GPTDatasetConfig(
        random_seed=1,
        sequence_length=sequence_length,
        blend=([str(prefix)], None),
        split="1",
        path_to_cache=str(tmp_path / "theirs"),
        tokenizer=Tokenizer(),  # type: ignore[arg-type]
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        mid_level_dataset_surplus=0.005,
    )
    everything = np.arange(len(lengths), dtype=np.int32)
    dataset = gpt_dataset.GPTDataset(IndexedDataset(str(prefix)), str(prefix), everything, None, Split.train, config)
    assert len(dataset) == len(samples)
    for number, sample in enumerate(samples):
        assert sample.tokens.tolist() == dataset._query_document_sample_shuffle_indices(number)[0].tolist()


def test_order_is_a_function_of_seed_and_pass_alone(tmp_path: Path) -> None:
    prefix = write(tmp_path / "shard", [7, 0, 30, 1, 12, 9, 40, 5] * 5)
    stream = ShardStream(prefix, 8, 5, tmp_path / "one")
    total = 3 * stream.samples_per_pass
    samples = [stream.sample(n) for n in range(total)]
    # Another process, another cache, other amounts asked for, another order of asking: the same samples.
    for asked in (1, total, 10 * total):
        again = ShardStream(prefix, 8, 5, tmp_path / f"asked{asked}")
        again.prepare(asked)
        assert len(order_folders(tmp_path / f"asked{asked}")) == -(-asked // stream.samples_per_pass)
        assert all(same(again.sample(n), samples[n]) for n in reversed(range(total)))
    passes = [
        [s.tokens.tolist() for s in samples[p * stream.samples_per_pass : (p + 1) * stream.samples_per_pass]]
        for p in range(3)
    ]
    other = [s.tokens.tolist() for s in a_pass(ShardStream(prefix, 8, 6, tmp_path / "one"))]
    for first, second in [(0, 1), (1, 2), (0, 2)]:
        assert passes[first] != passes[second]
    assert passes[0] != other


def test_range_of_documents(tmp_path: Path) -> None:
    """Train and valid share no token."""
    prefix = write(tmp_path / "shard", [20] * 10)
    parts = split_documents(10, "70,30,0")
    tokens = {}
    for name, part in parts.items():
        samples = a_pass(ShardStream(prefix, 9, 1, tmp_path / "cache", part))
        tokens[name] = {int(token) for sample in samples for token in sample.tokens}
    assert max(tokens["train"]) < 140 <= min(tokens["valid"])
    assert len(tokens["train"]) > 125
    with pytest.raises(DataError, match="documents 3 to 3 have 0 tokens"):
        ShardStream(prefix, 9, 1, tmp_path / "cache", (3, 3))


def test_index_at_an_odd_offset_in_the_file(tmp_path: Path) -> None:
    """The reader's arrays are views into the mapped file and not aligned; no number may come out wrong for that."""
    prefix = write(tmp_path / "shard", [5, 0, 17, 1, 9] * 40)
    stream = ShardStream(prefix, 16, 1, tmp_path / "cache")
    assert not stream.reader.lengths.flags.aligned, "otherwise this test says nothing"
    unaligned = a_pass(stream)
    stream.reader.lengths = stream.reader.lengths.copy()
    assert stream.reader.lengths.flags.aligned
    assert all(same(ours, theirs) for ours, theirs in zip(a_pass(stream), unaligned, strict=True))


# ---- split ----


@pytest.mark.parametrize("split", ["98,1,1", "100,0,0", "1,1,1", "0.7,0.2,0.1", "969,30,1", "0,50,50", "5,0,5"])
@pytest.mark.parametrize("documents", [0, 1, 2, 3, 7, 100, 12_346])
def test_split_is_that_of_megatron_core(documents: int, split: str) -> None:
    from megatron.core.datasets.blended_megatron_dataset_config import (
        convert_split_vector_to_split_matrix,
        parse_and_normalize_split,
    )

    expected = {}
    for name, share in zip(
        ("train", "valid", "test"),
        convert_split_vector_to_split_matrix(parse_and_normalize_split(split)),
        strict=True,
    ):
        if share is not None:
            first, last = (round(bound * documents) for bound in share)
            if last > first:
                expected[name] = (first, last)
    parts = split_documents(documents, split)
    assert parts == expected
    assert sum(last - first for first, last in parts.values()) == documents


@pytest.mark.parametrize(
    "split", ["", "1", "1,2", "1,2,3,4", "a,b,c", "0,0,0", "-1,2,0", "nan,1,1", "inf,0,0", "1;2;3"]
)
def test_bad_split(split: str) -> None:
    with pytest.raises(DataError, match=r"data\.split is .* needs three shares"):
        split_documents(10, split)


# ---- cache ----


def state_of(cache: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every file: changes whenever one is written."""
    files = (path for path in cache.rglob("*") if path.is_file())
    return {str(path.relative_to(cache)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def test_cache_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix, cache = write(tmp_path / "shard", [9] * 50), tmp_path / "cache"
    builds = []
    build = ShardStream._build
    monkeypatch.setattr(ShardStream, "_build", lambda self, epoch: (builds.append(epoch), build(self, epoch))[1])
    stream = ShardStream(prefix, 16, 1, cache)
    samples = a_pass(stream, 0) + a_pass(stream, 1)
    assert builds == [0, 1]
    written = state_of(cache)
    assert len(written) == 6
    again = ShardStream(prefix, 16, 1, cache)
    again.prepare(2 * again.samples_per_pass)
    assert all(same(again.sample(n), sample) for n, sample in enumerate(samples))
    assert builds == [0, 1]
    assert state_of(cache) == written
    again.prepare(2 * again.samples_per_pass + 1)
    assert builds == [0, 1, 2]


def test_changed_shard_gets_another_order(tmp_path: Path) -> None:
    prefix, cache = write(tmp_path / "shard", [9] * 50), tmp_path / "cache"
    a_pass(ShardStream(prefix, 16, 1, cache))
    assert len(order_folders(cache)) == 1
    write(tmp_path / "shard", [9] * 50 + [40])
    stream = ShardStream(prefix, 16, 1, cache)
    assert 489 in {int(token) for sample in a_pass(stream) for token in sample.tokens} or stream.samples_per_pass == 30
    assert len(order_folders(cache)) == 2
    # Same number and sum of lengths, same size: still another shard.
    write(tmp_path / "shard", [40] + [9] * 50)
    stream = ShardStream(prefix, 16, 1, cache)
    a_pass(stream)
    assert len(order_folders(cache)) == 3
    for options in ((17, 1), (16, 2)):
        a_pass(ShardStream(prefix, *options, cache))
    assert len(order_folders(cache)) == 5


def test_stream_goes_on_with_the_shard_it_opened(tmp_path: Path) -> None:
    """A shard replaced during a run must not mix: the mapped files and the orders are both of the old one."""
    prefix, cache = write(tmp_path / "shard", [9] * 50), tmp_path / "cache"
    stream = ShardStream(prefix, 16, 1, cache)
    before = a_pass(stream, 1)
    a_pass(stream, 0)
    write(tmp_path / "shard", [3] * 20, first=1000)
    assert all(same(ours, theirs) for ours, theirs in zip(a_pass(stream, 1), before, strict=True))


def damage_remove(path: Path) -> None:
    path.unlink()


def damage_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


def damage_shorter(path: Path) -> None:
    np.save(path, np.load(path)[:-1])


def damage_type(path: Path) -> None:
    np.save(path, np.load(path).astype(np.float64))


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("damage", [damage_remove, damage_cut, damage_empty, damage_shorter, damage_type])
def test_half_written_order_is_not_used(tmp_path: Path, name: str, damage: object) -> None:
    prefix, cache = write(tmp_path / "shard", [9] * 50), tmp_path / "cache"
    samples = a_pass(ShardStream(prefix, 16, 1, cache))
    damage(order_folders(cache)[0] / f"{name}.npy")  # type: ignore[operator]
    assert all(
        same(ours, theirs) for ours, theirs in zip(a_pass(ShardStream(prefix, 16, 1, cache)), samples, strict=True)
    )
    assert set(cached(order_folders(cache)[0])) == set(ARRAYS)


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


def test_no_pickle_is_ever_loaded(tmp_path: Path) -> None:
    prefix, cache, target = write(tmp_path / "shard", [9] * 50), tmp_path / "cache", tmp_path / "executed"
    samples = a_pass(ShardStream(prefix, 16, 1, cache))
    (folder,) = order_folders(cache)
    np.save(folder / "order.npy", np.array([Payload(target)] * 28, dtype=object), allow_pickle=True)
    (folder / "ends.npy").write_bytes(pickle.dumps(Payload(target)))
    assert all(
        same(ours, theirs) for ours, theirs in zip(a_pass(ShardStream(prefix, 16, 1, cache)), samples, strict=True)
    )
    assert not target.exists()
    pickle.loads(pickle.dumps(Payload(target)))
    assert target.exists(), "the payload works, had it been loaded"


def test_leftovers_of_killed_processes(tmp_path: Path) -> None:
    prefix, cache = write(tmp_path / "shard", [9] * 50), tmp_path / "cache"
    a_pass(ShardStream(prefix, 16, 1, cache))
    (folder,) = order_folders(cache)
    assert sorted(path.name for path in folder.iterdir()) == ["documents.npy", "ends.npy", "order.npy"]
    old, fresh = folder / ".building-ends.npy-1-00", folder / ".building-ends.npy-2-00"
    for path in (old, fresh):
        path.write_bytes(b"\x93NUMPY")
    os.utime(old, (time.time() - 7200,) * 2)
    (folder / "ends.npy").unlink()
    a_pass(ShardStream(prefix, 16, 1, cache))
    assert not old.exists()
    assert fresh.exists(), "another process may be writing it"


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    prefix = write(tmp_path / "shard", [9] * 50)
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DataError, match=r"cannot write .*cache"):
        ShardStream(prefix, 16, 1, tmp_path / "cache").sample(0)


def read_all(prefix: Path, cache: Path, start: float, answers: multiprocessing.Queue[list[int]]) -> None:
    """One of several processes that begin at the same moment."""
    stream = ShardStream(prefix, 16, 1, cache)
    while time.time() < start:
        pass
    answers.put([int(token) for epoch in range(6) for sample in a_pass(stream, epoch) for token in sample.tokens])


def test_processes_that_build_at_once_do_not_harm_each_other(tmp_path: Path) -> None:
    prefix, cache = write(tmp_path / "shard", [9] * 400), tmp_path / "cache"
    context = multiprocessing.get_context("fork")
    answers: multiprocessing.Queue[list[int]] = context.Queue()
    start = time.time() + 0.5
    processes = [context.Process(target=read_all, args=(prefix, cache, start, answers)) for _ in range(4)]
    for process in processes:
        process.start()
    results = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    alone = ShardStream(prefix, 16, 1, tmp_path / "alone")
    expected = [int(token) for epoch in range(6) for sample in a_pass(alone, epoch) for token in sample.tokens]
    assert all(result == expected for result in results)
    assert len(order_folders(cache)) == 6
    assert not list(cache.rglob(".building-*"))


def test_ids_outside_the_vocabulary_are_refused_with_their_document(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "foreign", 1000) as writer:
        writer.add_document(np.arange(20))
        writer.add_document(np.array([5, 999, 6, 7, 8]))
    stream = ShardStream(tmp_path / "foreign", 24, 0, tmp_path / "cache", vocab_size=500)
    with pytest.raises(DataError, match=r"documents \[0, 1\] hold an id outside the model's vocabulary of 500"):
        stream.sample(0)
    assert ShardStream(tmp_path / "foreign", 24, 0, tmp_path / "cache", vocab_size=1000).sample(0).tokens.max() == 999
