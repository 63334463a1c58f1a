"""What hangs off the loop: spikes, speed, garbage, time limit and skipped steps, each on its own and in a run."""

from __future__ import annotations

import gc
import math
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from megatron_bielik.checkpoint_files import find_checkpoint, step_of_name
from megatron_bielik.parallel.runtime import Runtime
from megatron_bielik.presets import PRESETS
from megatron_bielik.training import callbacks
from megatron_bielik.training.callbacks import (
    Callback,
    Checkpoints,
    GarbageCollection,
    LossSpikes,
    Metrics,
    SkippedSteps,
    StopRequests,
)
from megatron_bielik.training.flops import flops_per_token
from megatron_bielik.training.step import StepResult
from tests.conftest import records
from tests.training.in_process import small_config, train


class FakeTrainer:
    """What callbacks look at, and what they do to it."""

    def __init__(self, steps: int = 100, unfreeze_at_step: int | None = None) -> None:
        training = SimpleNamespace(steps=steps, unfreeze_at_step=unfreeze_at_step)
        self.config = SimpleNamespace(training=training, checkpoint=SimpleNamespace(async_save=False))
        self.step = self.resumed_step = 0
        self.stopping: str | None = None
        self.failed = False
        self.samples = {"data/pl": (40, 48), "data/en": (7, 8)}
        self.events: list[tuple[str, str]] = []
        self.saved: list[int] = []
        self.rebuilt: list[int] = []
        self.store = SimpleNamespace(poll=lambda: None, finish=lambda: None, latest=lambda: None)

    def event(self, kind: str, message: str) -> None:
        self.events.append((kind, message))

    def stop(self, reason: str, failed: bool = False) -> None:
        self.stopping, self.failed = reason, failed

    def save(self) -> None:
        self.saved.append(self.step)

    def rebuild_from(self, checkpoint: None) -> None:
        self.rebuilt.append(self.step)

    def after(self, callback: Callback, loss: float = 1.0, updated: bool = True, stop: int = 0) -> None:
        """One more step was made."""
        self.step += 1
        callback.on_step(self, StepResult(loss, 1.0, 10, updated, stop))  # type: ignore[arg-type]


# ---- spikes ----


def spikes(losses: list[float], detector: LossSpikes | None = None) -> list[int]:
    """Positions at which a detector speaks up."""
    detector, trainer, found = detector or LossSpikes(6.0), FakeTrainer(), []
    for position, loss in enumerate(losses):
        before = len(trainer.events)
        trainer.after(detector, loss)
        found += [position] if len(trainer.events) > before else []
    return found


def noisy(mean: np.ndarray | float, size: int = 300, deviation: float = 0.05) -> list[float]:
    """A loss curve with normal noise."""
    return list(np.broadcast_to(mean, size) + deviation * np.random.default_rng(1).standard_normal(size))


def test_spikes_are_found_and_nothing_else() -> None:
    losses = noisy(2.5)
    assert spikes(losses) == []
    for at in (100, 101, 250):
        losses[at] += 0.6
    assert spikes(losses) == [100, 101, 250], "a spike does not hide the next one"
    losses[200] -= 1.0
    assert spikes(losses) == [100, 101, 250], "falling is no spike"


def test_drift_is_no_spike() -> None:
    assert spikes(noisy(np.linspace(10, 2, 300))) == []
    assert spikes(noisy(np.linspace(2, 4, 300))) == [], "rising by a deviation in eight steps is no spike either"
    assert spikes([2 + 8 * math.exp(-step / 20) for step in range(300)]) == []


def test_first_steps_are_no_spikes() -> None:
    losses = noisy(2.5)
    for at in (0, 1, 5, 23):
        losses[at] = 50.0
    assert [at for at in spikes(losses) if at < 25] == []


def test_losses_that_are_not_numbers_are_left_to_others() -> None:
    losses = noisy(2.5)
    losses[100:103] = [math.nan, math.inf, -math.inf]
    losses[150] = 4.0
    assert spikes(losses) == [150]


def test_equal_losses() -> None:
    """With a learning rate of zero only rounding moves the loss."""
    assert spikes([2.5] * 100 + [2.5000001] + [2.5] * 10 + [3.0]) == [111]


def test_new_level_is_accepted() -> None:
    """Another mixture may raise the loss for good: a few steps say so, not the whole rest of the run."""
    assert spikes(noisy(np.repeat([2.0, 3.5], 150))) == list(range(150, 160))
    twice = noisy(np.repeat([2.0, 3.5], 150))
    twice[250] += 2
    assert spikes(twice)[-1] == 250, "and from then on it is measured against the new level"


def test_spike_detector_goes_on_after_a_resume() -> None:
    losses = noisy(2.5)
    for at in (120, 121, 122):
        losses[at] += 1
    whole = LossSpikes(6.0)
    expected = spikes(losses, whole)
    for cut in (10, 24, 25, 121, 200):
        first, second = LossSpikes(6.0), LossSpikes(6.0)
        found = spikes(losses[:cut], first)
        second.restore(first.state())
        assert found + [cut + at for at in spikes(losses[cut:], second)] == expected
        assert second.state() == whole.state()


def test_spike_names_its_samples() -> None:
    detector, trainer = LossSpikes(6.0), FakeTrainer()
    for loss in [*noisy(2.0, 100), 9.0]:
        trainer.after(detector, loss)
    ((kind, message),) = trainer.events
    assert kind == "spike"
    assert message.startswith("loss 9.0000 is 1")
    assert message.endswith("samples of the step: data/pl 40 to 47, data/en 7 to 7")


def test_spike_in_a_run(shard: Path, tmp_path: Path, single_process: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the trainer: the samples told are those the step was made of."""
    config = small_config(tmp_path / "run", shard, training__steps=4, training__spike_threshold=1.0)
    monkeypatch.setattr(callbacks.LossSpikes, "is_spike", lambda self, loss: self._seen == 2)
    train(config, single_process)
    events = [event["message"] for event in records(tmp_path / "run", "event") if event["kind"] == "spike"]
    assert [message.split("; ")[1] for message in events] == [
        f"samples of the step: {shard} {first} to {first + 3}" for first in (8, 12)
    ]


# ---- speed ----


@pytest.mark.parametrize(("peak", "world"), [(None, 1), (989.5e12, 4)])
def test_speed_and_mfu(peak: float | None, world: int) -> None:
    written: list[dict[str, Any]] = []
    shape = PRESETS["bielik-4.5b-v3"]
    flops = {convention: flops_per_token(shape, 4096, convention) for convention in ("causal", "full")}
    trainer: Any = FakeTrainer(steps=5)
    trainer.__dict__.update(
        tokens_per_step=1_000_000,
        runtime=SimpleNamespace(world_size=world, peak_memory_bytes=lambda: 3 * 2**30),
        lr=3e-4,
        flops_per_token=flops,
        peak_flops=peak,
        log=SimpleNamespace(write=written.append),
    )
    metrics = Metrics(2)
    metrics.on_start(trainer)
    for seconds in (10.0, 30.0, 5.0, 5.0, 8.0):
        trainer.step_seconds = seconds
        trainer.after(metrics, loss=2.0)
    assert [record["step"] for record in written] == [2, 4, 5], "every second one, and the last"
    assert [record["tokens"] for record in written] == [2_000_000, 4_000_000, 5_000_000]
    for record, seconds in zip(written, (20.0, 5.0, 8.0), strict=True):
        rate = 1_000_000 / seconds / world
        assert record["step_seconds"] == pytest.approx(seconds)
        assert record["peak_memory_gib"] == 3.0
        assert record["tokens_per_second_per_gpu"] == pytest.approx(rate)
        assert (record["loss"], record["lr"], record["grad_norm"]) == (2.0, 3e-4, 1.0)
        for convention in ("causal", "full"):
            assert record[f"tflops_{convention}"] == pytest.approx(rate * flops[convention] / 1e12)
            if peak is None:
                assert f"mfu_{convention}" not in record, "an unknown peak gives no figure"
            else:
                assert record[f"mfu_{convention}"] == pytest.approx(rate * flops[convention] / 989.5e12)
    # The conventions by hand: 6 N + 6 L q s, and 12 L q s.
    attention = shape.num_layers * shape.num_attention_heads * shape.head_dim * 4096
    assert flops["causal"] == 6 * shape.matmul_parameters() + 6 * attention
    assert flops["full"] == 6 * shape.matmul_parameters() + 12 * attention


# ---- garbage ----


@pytest.fixture
def collections(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Counts collections; garbage collection is on again afterwards."""
    done: list[str] = []
    monkeypatch.setattr(callbacks, "gc", SimpleNamespace(
        collect=lambda: done.append("collect"), disable=gc.disable, enable=gc.enable
    ))  # fmt: skip
    yield done
    gc.enable()


def test_garbage_is_collected_at_its_steps_only(collections: list[str]) -> None:
    trainer, callback = FakeTrainer(), GarbageCollection(3)
    assert gc.isenabled()
    callback.on_start(trainer)  # type: ignore[arg-type]
    counts = []
    for _ in range(7):
        assert not gc.isenabled()
        trainer.after(callback)
        counts.append(len(collections))
    assert counts == [1, 1, 2, 2, 2, 3, 3]
    callback.on_end(trainer)  # type: ignore[arg-type]
    assert gc.isenabled()


def test_garbage_is_left_to_python(collections: list[str]) -> None:
    trainer, callback = FakeTrainer(), GarbageCollection(0)
    callback.on_start(trainer)  # type: ignore[arg-type]
    trainer.after(callback)
    assert gc.isenabled()
    assert collections == []


# ---- stopping ----


def test_time_limit_leaves_cleanly(shard: Path, tmp_path: Path, single_process: Runtime) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    config = small_config(tmp_path / "run", shard, training__steps=1000, training__time_limit_minutes=1e-6)
    for started in (0, 2):
        trainer = train(config, single_process)
        # Seen after a step, told to all ranks in the next one.
        assert trainer.step == started + 2
        assert not trainer.failed, "pretrain's exit code is 0"
        assert step_of_name(find_checkpoint(tmp_path / "run").name) == trainer.step
    stops = [event for event in records(tmp_path / "run", "event") if event["kind"] == "stop"]
    assert [stop["message"] for stop in stops] == [
        f"stopping after step {step}: the time limit was reached" for step in (2, 4)
    ]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)] == handlers
    assert gc.isenabled()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 2), (signal.SIGUSR1, 3)])
def test_signals_ask_and_the_step_decides(number: int, code: int) -> None:
    """A signal alone stops nothing: another rank may not have it yet."""
    trainer, callback = FakeTrainer(), StopRequests(None)
    callback.on_start(trainer)  # type: ignore[arg-type]
    try:
        trainer.after(callback)
        signal.raise_signal(number)
        assert callback.wanted == code
        trainer.after(callback)
        assert trainer.stopping is None
        trainer.after(callback, stop=code)
        assert trainer.stopping == f"{signal.Signals(number).name} was received"
    finally:
        callback.on_end(trainer)  # type: ignore[arg-type]
    assert signal.getsignal(number) is not None


def test_skipped_steps_stop_the_run_when_they_do_not_end() -> None:
    trainer, callback = FakeTrainer(), SkippedSteps(3)
    for updated in (False, False, True, False, False):
        trainer.after(callback, updated=updated)
    assert trainer.stopping is None
    assert callback.state() == {"total": 4, "in_a_row": 2}
    resumed = SkippedSteps(3)
    resumed.restore(callback.state())
    trainer.after(resumed, loss=math.nan, updated=False)
    assert trainer.failed
    assert trainer.stopping == "3 steps in a row were not finite (training.max_skipped_steps)"
    assert trainer.events[-1] == ("skip", "loss nan, gradient norm 1.0: step skipped (5 in all)")


# ---- checkpoints ----


def saved(callback: Checkpoints, trainer: FakeTrainer, skipped: tuple[int, ...] = (), steps: int = 10) -> list[int]:
    """Steps saved by the end of a run."""
    while trainer.step < steps and trainer.stopping is None:
        trainer.after(callback, updated=trainer.step + 1 not in skipped)
    callback.on_end(trainer)  # type: ignore[arg-type]
    return trainer.saved


def test_when_checkpoints_are_saved() -> None:
    assert saved(Checkpoints(4), FakeTrainer()) == [4, 8, 10]
    assert saved(Checkpoints(5), FakeTrainer()) == [5, 10], "the last step once"
    assert saved(Checkpoints(0), FakeTrainer()) == [10]
    assert saved(Checkpoints(4), FakeTrainer(), skipped=(4, 5)) == [6, 8, 10], "as soon as a step moves the weights"
    trainer = FakeTrainer(unfreeze_at_step=3)
    assert saved(Checkpoints(0), trainer) == [3, 10]
    assert trainer.rebuilt == [3]


def test_nothing_new_is_not_saved() -> None:
    trainer = FakeTrainer()
    trainer.step = trainer.resumed_step = 10
    assert saved(Checkpoints(4), trainer) == []


def test_failed_run_saves_no_more() -> None:
    trainer = FakeTrainer()
    callback, skips = Checkpoints(2), SkippedSteps(3)
    for step in range(1, 8):
        updated = step < 5
        trainer.after(skips, updated=updated)
        callback.on_step(trainer, StepResult(1.0, 1.0, 10, updated))  # type: ignore[arg-type]
    assert trainer.failed
    assert saved(callback, trainer) == [2, 4]


def test_stop_at_the_unfreezing_neither_rebuilds_nor_saves_twice() -> None:
    trainer, callback = FakeTrainer(unfreeze_at_step=1), Checkpoints(1)
    trainer.stop("SIGTERM was received")
    trainer.after(callback)
    assert saved(callback, trainer) == [1]
    assert trainer.rebuilt == []
