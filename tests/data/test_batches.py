"""The batches of a step: the same samples under any number of ranks, masks and positions by document, reading ahead."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from megatron_bielik.checkpoint_files import find_checkpoint
from megatron_bielik.config import DatasetSpec
from megatron_bielik.data.batches import Batch, StepLoader, make_batch
from megatron_bielik.data.epochs import Sample, ShardStream
from megatron_bielik.data.mixture import Mixture, MixtureState
from megatron_bielik.data.shards import ShardWriter
from megatron_bielik.parallel.runtime import Runtime
from megatron_bielik.training import trainer as trainer_module
from tests.conftest import write_shard
from tests.training.in_process import small_config, train

LENGTH, GLOBAL = 24, 8
FIRST, SECOND = "first", "second"


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ShardStream]:
    """Two shards; a token's number tells its document: token // 100. Some are empty, some a single token long."""
    folder = tmp_path_factory.mktemp("streams")
    generator = np.random.default_rng(1)
    result = {}
    for shard, name in enumerate((FIRST, SECOND)):
        with ShardWriter(folder / name, 100_000) as writer:
            for document in range(200):
                writer.add_document(100 * (200 * shard + document) + np.arange(generator.integers(0, 60)) % 100)
        result[name] = ShardStream(folder / name, LENGTH, 1, folder / "cache")
    return result


def loader(
    streams: dict[str, ShardStream],
    rank: int = 0,
    ranks: int = 1,
    micro: int = 2,
    respect: bool = True,
    state: MixtureState | None = None,
) -> StepLoader:
    """A loader of a mixture of the two shards."""
    return StepLoader(streams, Mixture({FIRST: 2, SECOND: 1}, state), micro, GLOBAL, rank, ranks, respect)


def samples_of(batch: Batch) -> list[tuple[tuple[str, int], list[int]]]:
    """Source and tokens of each sample of a micro-batch."""
    rows = torch.cat((batch.tokens.reshape(-1, LENGTH), batch.labels.reshape(-1, LENGTH)[:, -1:]), dim=1)
    return list(zip(batch.sources, rows.tolist(), strict=True))


def global_order(steps: list[list[Batch]]) -> list[tuple[tuple[str, int], list[int]]]:
    """Samples of one step in global order, from every rank's micro-batches."""
    return [s for micros in zip(*steps, strict=True) for batch in micros for s in samples_of(batch)]


@pytest.mark.parametrize("micro", [1, 2])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_together_read_the_global_batch(streams: dict[str, ShardStream], ranks: int, micro: int) -> None:
    loaders = [loader(streams, rank, ranks, micro) for rank in range(ranks)]
    expected = Mixture({FIRST: 2, SECOND: 1})
    for _ in range(5):
        steps = [one.next_step() for one in loaders]
        assert all(len(step) == GLOBAL // (ranks * micro) for step in steps)
        seen = global_order(steps)
        before = dict(expected.consumed)
        assert [source for source, _ in seen] == expected.draw(GLOBAL)
        for (name, number), tokens in seen:
            assert tokens == streams[name].sample(number).tokens.tolist()
        for one in loaders:
            assert one.state == expected.state(), "the position is that of this step, not of the one read ahead"
            assert one.drawn == {n: (before[n], expected.consumed[n]) for n in streams}
    for one in loaders:
        one.close()


@pytest.mark.parametrize(("before", "after"), [(1, 2), (4, 1), (2, 4)])
def test_resume_with_another_number_of_ranks(streams: dict[str, ShardStream], before: int, after: int) -> None:
    reference = loader(streams)
    expected = [global_order([reference.next_step()]) for _ in range(6)]
    reference.close()
    got, state = [], None
    for ranks in (before, after):
        loaders = [loader(streams, rank, ranks, 1, state=state) for rank in range(ranks)]
        got += [global_order([one.next_step() for one in loaders]) for _ in range(3)]
        state = loaders[-1].state
        for one in loaders:
            one.close()
    assert got == expected


@pytest.mark.parametrize("respect", [True, False])
def test_documents_of_a_batch(streams: dict[str, ShardStream], respect: bool) -> None:
    """Mask, positions and cu_seqlens against what the tokens themselves say of their documents."""
    source = loader(streams, micro=4, respect=respect)
    masked = 0
    for batch in itertools.chain.from_iterable(source.next_step() for _ in range(20)):
        tokens, labels = batch.tokens[0].tolist(), batch.labels[0].tolist()
        size = 4 * LENGTH
        assert batch.tokens.shape == batch.labels.shape == batch.positions.shape == batch.loss_mask.shape == (1, size)
        assert (batch.tokens.dtype, batch.labels.dtype, batch.positions.dtype) == (torch.int64,) * 3
        assert (batch.loss_mask.dtype, batch.cu_seqlens.dtype) == (torch.float32, torch.int32)
        bounds, positions, mask = [0], [], []
        for at in range(size):
            new = at % LENGTH == 0 or (respect and tokens[at] // 100 != tokens[at - 1] // 100)
            if new and at:
                bounds.append(at)
            positions.append(0 if new else positions[-1] + 1)
            mask.append(1.0 if not respect or labels[at] // 100 == tokens[at] // 100 else 0.0)
            if at % LENGTH < LENGTH - 1:
                assert labels[at] == tokens[at + 1]
        assert batch.cu_seqlens.tolist() == [*bounds, size]
        assert batch.positions[0].tolist() == positions
        assert batch.loss_mask[0].tolist() == mask
        masked += mask.count(0.0)
    source.close()
    assert (masked > 50) == respect


def test_label_of_the_next_document_ends_a_sample() -> None:
    """The last token of a sample has its label outside: counted or not, by whose it is."""
    bounds = np.array([0, 2, 4], dtype=np.int32)
    samples = [Sample(np.arange(5), bounds, crosses) for crosses in (False, True)]
    batch = make_batch(samples, respect_boundaries=True)
    assert batch.loss_mask[0].tolist() == [1, 0, 1, 1, 1, 0, 1, 0]
    assert batch.cu_seqlens.tolist() == [0, 2, 4, 6, 8]


def test_batch_moves_whole(streams: dict[str, ShardStream]) -> None:
    source = loader(streams)
    batch = source.next_step()[0]
    source.close()
    moved = batch.to(torch.device("meta"))
    for name in ("tokens", "labels", "loss_mask", "positions"):
        assert getattr(moved, name).device.type == "meta"
        assert getattr(moved, name).shape == getattr(batch, name).shape
    assert moved.cu_seqlens is batch.cu_seqlens
    assert moved.sources == batch.sources


class Broken:
    """Stands for a stream whose disk fails at a sample."""

    def __init__(self, stream: ShardStream, at: int) -> None:
        self._stream, self._at = stream, at

    def sample(self, number: int) -> Sample:
        if number >= self._at:
            raise OSError(5, "Input/output error")
        return self._stream.sample(number)


def test_failure_of_reading_ahead_comes_out_at_its_step(streams: dict[str, ShardStream]) -> None:
    source = StepLoader({FIRST: Broken(streams[FIRST], 2 * GLOBAL)}, Mixture({FIRST: 1}), 2, GLOBAL, 0, 1, True)  # type: ignore[dict-item]
    source.next_step()
    source.next_step()
    state = source.state
    for _ in range(2):  # and stays: no step may be left out silently
        with pytest.raises(OSError, match="Input/output error"):
            source.next_step()
    assert source.state == state
    assert state["consumed"] == {FIRST: 2 * GLOBAL}
    source.close()


class Slow:
    """Stands for a stream that takes its time, and counts."""

    def __init__(self, stream: ShardStream, seconds: float) -> None:
        self._stream, self._seconds, self.read, self.threads = stream, seconds, 0, set[str]()

    def sample(self, number: int) -> Sample:
        self.threads.add(threading.current_thread().name)
        self.read += 1
        time.sleep(self._seconds)
        return self._stream.sample(number)


def test_next_step_is_read_while_this_one_is_trained(streams: dict[str, ShardStream]) -> None:
    slow = Slow(streams[FIRST], 0.01)
    source = StepLoader({FIRST: slow}, Mixture({FIRST: 1}), 2, GLOBAL, 0, 1, True)  # type: ignore[dict-item]
    source.next_step()
    time.sleep(0.5)  # a step is trained
    assert slow.read == 2 * GLOBAL, "one step ahead, and no more"
    started = time.monotonic()
    source.next_step()
    assert time.monotonic() - started < 0.05
    assert all(name.startswith("read-ahead") for name in slow.threads)
    started = time.monotonic()
    source.close()
    assert time.monotonic() - started < 2
    assert not any(thread.name.startswith("read-ahead") for thread in threading.enumerate())
    loader(streams).close()  # nothing was read at all


def test_run_goes_on_with_another_mixture(tmp_path: Path, single_process: Runtime) -> None:
    """Weights change and a shard joins at a resume: each shard gives its samples on, none twice."""
    paths = [tmp_path / name for name in ("one", "two", "three")]
    for seed, path in enumerate(paths):
        write_shard(path, 60, seed=seed)
    seen: list[tuple[str, int]] = []

    def go(steps: int, weights: list[float]) -> MixtureState:
        specs = [DatasetSpec(str(path), weight) for path, weight in zip(paths, weights, strict=False)]
        config = small_config(tmp_path / "run", training__steps=steps, training__global_batch_size=8)
        train(replace(config, data=replace(config.data, train=specs)), single_process)
        common = torch.load(find_checkpoint(tmp_path / "run") / "common.pt", weights_only=True)["common"]
        assert common["step"] == steps
        return common["mixture"]  # type: ignore[no-any-return]

    with pytest.MonkeyPatch.context() as patch:
        trained = trainer_module.train_step
        patch.setattr(
            trainer_module,
            "train_step",
            lambda wrapped, optimizer, update, batches, *rest: (
                seen.extend(source for batch in batches for source in batch.sources),
                trained(wrapped, optimizer, update, batches, *rest),
            )[1],
        )
        one, two, three = map(str, paths)
        first = go(6, [3, 1])
        assert first["consumed"] == {one: 36, two: 12}
        assert first["weights"] == {one: 0.75, two: 0.25}
        second = go(10, [1, 1, 2])
    assert second["since_change"] == {one: 8, two: 8, three: 16}
    assert second["consumed"] == {one: 44, two: 20, three: 16}
    assert sorted(seen) == sorted((name, n) for name, count in second["consumed"].items() for n in range(count))
