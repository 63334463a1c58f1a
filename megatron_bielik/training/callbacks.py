"""What hangs off the loop: each concern a small object that sees every step and keeps a state of its own.

States are stored in checkpoints under the callback's name and are the same on every rank.
"""

from __future__ import annotations

import gc
import math
import signal
import statistics
import time
from typing import TYPE_CHECKING, Any

from megatron_bielik.training.step import StepResult

if TYPE_CHECKING:
    from types import FrameType

    from megatron_bielik.training.trainer import Trainer

STOP_REASONS = {1: "the time limit was reached", 2: "SIGTERM was received", 3: "SIGUSR1 was received"}


class Callback:
    """Base: does nothing. Subclasses override what they need."""

    name = ""

    def state(self) -> dict[str, Any]:
        """Plain data for the checkpoint."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what state() gave."""

    def on_start(self, trainer: Trainer) -> None:
        """Before the first step of this process, after a resume."""

    def on_step(self, trainer: Trainer, result: StepResult) -> None:
        """After each step; trainer.step is its number."""

    def on_end(self, trainer: Trainer) -> None:
        """After the last step of this process, also when it stops early."""


class SkippedSteps(Callback):
    """Counts steps whose loss or gradient was not finite, and stops the run after too many in a row."""

    name = "skipped_steps"

    def __init__(self, limit: int) -> None:
        self._limit, self.total, self._in_a_row = limit, 0, 0

    def state(self) -> dict[str, Any]:
        return {"total": self.total, "in_a_row": self._in_a_row}

    def restore(self, state: dict[str, Any]) -> None:
        self.total, self._in_a_row = state["total"], state["in_a_row"]

    def on_step(self, trainer: Trainer, result: StepResult) -> None:
        if result.updated:
            self._in_a_row = 0
            return
        self.total += 1
        self._in_a_row += 1
        what = f"loss {result.loss}, gradient norm {result.grad_norm}: step skipped ({self.total} in all)"
        trainer.event("skip", what)
        if self._in_a_row >= self._limit:
            trainer.stop(f"{self._in_a_row} steps in a row were not finite (training.max_skipped_steps)", failed=True)


class Metrics(Callback):
    """Writes each logged step's figures: loss, rate, norm, speed, FLOP/s in both conventions, and the first rank's memory.

    Speed is that of the steps, reading their data included; evaluation and checkpoints in between do not count. Of several
    ranks it names the one whose forward passes took the longest beside the others of its pipeline stage.
    """

    name = "metrics"

    def __init__(self, interval: int) -> None:
        self._interval = interval

    def on_start(self, trainer: Trainer) -> None:
        self._seconds, self._steps = 0.0, 0
        self._rank_seconds: list[float] = []

    def on_step(self, trainer: Trainer, result: StepResult) -> None:
        self._steps += 1
        before = self._rank_seconds or [0.0] * len(result.rank_seconds)
        self._rank_seconds = [sum(both) for both in zip(before, result.rank_seconds, strict=True)]
        self._seconds += trainer.step_seconds
        if trainer.step % self._interval and trainer.step != trainer.config.training.steps:
            return
        seconds = self._seconds / self._steps
        of_ranks = [total / self._steps for total in self._rank_seconds]
        self._seconds, self._steps, self._rank_seconds = 0.0, 0, []
        rate = trainer.tokens_per_step / seconds / trainer.runtime.world_size
        record = {
            "type": "train",
            "step": trainer.step,
            "loss": result.loss,
            "lr": trainer.lr,
            "grad_norm": result.grad_norm,
            "tokens": trainer.step * trainer.tokens_per_step,
            "tokens_per_second_per_gpu": rate,
            "step_seconds": seconds,
            "peak_memory_gib": trainer.runtime.peak_memory_bytes() / 2**30,
            "time": time.time(),
        }
        if len(of_ranks) > 1:
            record |= slowest_rank(of_ranks, trainer.config.parallel.pipeline_parallel_size)
        for convention, flops in trainer.flops_per_token.items():
            record[f"tflops_{convention}"] = flops * rate / 1e12
            if trainer.peak_flops is not None:
                record[f"mfu_{convention}"] = flops * rate / trainer.peak_flops
        trainer.log.write(record)


def slowest_rank(seconds: list[float], stages: int) -> dict[str, float]:
    """The rank that takes the longest beside the median of the other ranks of its pipeline stage, for the log.

    Stages differ by what they hold, and megatron-core numbers ranks stage by stage. Empty where no stage has two ranks.

    Args:
        seconds: Of each rank.
        stages: Pipeline stages.
    """
    size, found = len(seconds) // stages, []
    for rank, own in enumerate(seconds):
        first = rank - rank % max(size, 1)
        others = [other for at, other in enumerate(seconds[first : first + size], first) if at != rank]
        if others and (median := statistics.median(others)) > 0:
            found.append((own / median, rank, median))
    if not found:
        return {}
    _, rank, median = max(found)
    return {"slowest_rank": rank, "slowest_rank_seconds": seconds[rank], "median_rank_seconds": median}


class LossSpikes(Callback):
    """Tells when a loss lies far above the recent ones, and which samples were in that step.

    Mean and variance are exponential averages over about `memory` steps; a spike itself does not enter them. After
    `memory` / 5 spikes in a row that is the new level, and both begin anew.
    """

    name = "loss_spikes"

    def __init__(self, threshold: float, memory: int = 50) -> None:
        self._threshold, self._share = threshold, 2 / (memory + 1)
        self._mean, self._variance, self._seen, self._memory = 0.0, 0.0, 0, memory
        self._in_a_row = 0

    def state(self) -> dict[str, Any]:
        return {"mean": self._mean, "variance": self._variance, "seen": self._seen, "in_a_row": self._in_a_row}

    def restore(self, state: dict[str, Any]) -> None:
        self._mean, self._variance, self._seen = state["mean"], state["variance"], state["seen"]
        self._in_a_row = state["in_a_row"]

    def on_step(self, trainer: Trainer, result: StepResult) -> None:
        if not math.isfinite(result.loss):
            return
        if not self.is_spike(result.loss):
            self._in_a_row = 0
            self.observe(result.loss)
            return
        deviations = (result.loss - self._mean) / self._deviation()
        samples = ", ".join(f"{name} {first} to {end - 1}" for name, (first, end) in trainer.samples.items())
        above = f"loss {result.loss:.4f} is {deviations:.1f} deviations above {self._mean:.4f}"
        trainer.event("spike", f"{above}; samples of the step: {samples}")
        self._in_a_row += 1
        if self._in_a_row >= self._memory // 5:
            self._mean = self._variance = 0.0
            self._seen = self._in_a_row = 0

    def is_spike(self, loss: float) -> bool:
        """Whether a loss is too far above the mean; never during the first steps, when there is no mean yet."""
        return self._seen >= self._memory // 2 and loss > self._mean + self._threshold * self._deviation()

    def _deviation(self) -> float:
        """Never zero: equal losses, as with a learning rate of 0, would make a spike of every rounding error."""
        return max(math.sqrt(self._variance), 1e-3 * abs(self._mean), 1e-9)

    def observe(self, loss: float) -> None:
        """Take a loss into mean and variance."""
        share = max(self._share, 1 / (self._seen + 1))  # a plain average first
        delta = loss - self._mean
        self._mean += share * delta
        self._variance = (1 - share) * (self._variance + share * delta * delta)
        self._seen += 1


class Evaluation(Callback):
    """Evaluates every set at intervals and after the last step, and before the first if asked."""

    name = "evaluation"

    def __init__(self, interval: int, at_start: bool) -> None:
        self._interval, self._at_start = interval, at_start

    def on_start(self, trainer: Trainer) -> None:
        if self._at_start and trainer.step == 0:
            trainer.evaluate()

    def on_step(self, trainer: Trainer, result: StepResult) -> None:
        if self._interval and (trainer.step % self._interval == 0 or trainer.step == trainer.config.training.steps):
            trainer.evaluate()


class GarbageCollection(Callback):
    """Collects at the same step on every rank, so that no rank makes the others wait at a step of its own."""

    name = "garbage_collection"

    def __init__(self, interval: int) -> None:
        self._interval = interval

    def on_start(self, trainer: Trainer) -> None:
        if self._interval:
            gc.disable()
            gc.collect()

    def on_step(self, trainer: Trainer, result: StepResult) -> None:
        if self._interval and trainer.step % self._interval == 0:
            gc.collect()

    def on_end(self, trainer: Trainer) -> None:
        gc.enable()


class StopRequests(Callback):
    """Turns SIGTERM, SIGUSR1 and the time limit into a stop that all ranks make after the same step.

    `wanted` is this rank's request; the step reduces it over all ranks and the result says what to do.
    """

    name = "stop_requests"

    def __init__(self, time_limit_minutes: float | None) -> None:
        self.wanted = 0
        self._deadline = math.inf if time_limit_minutes is None else time.monotonic() + 60 * time_limit_minutes
        self._previous: dict[int, Any] = {}

    def on_start(self, trainer: Trainer) -> None:
        for number, code in ((signal.SIGTERM, 2), (signal.SIGUSR1, 3)):

            def request(received: int, frame: FrameType | None, code: int = code) -> None:
                self.wanted = code

            self._previous[number] = signal.signal(number, request)

    def on_step(self, trainer: Trainer, result: StepResult) -> None:
        if time.monotonic() > self._deadline:
            self.wanted = max(self.wanted, 1)
        if result.stop:
            trainer.stop(STOP_REASONS[result.stop])

    def on_end(self, trainer: Trainer) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


class Checkpoints(Callback):
    """Saves at intervals, before a change of the trained parameters, and at the end of the process.

    A run that is failing must not push its last good checkpoints out: after a skipped step a checkpoint that is due waits
    for the next step that moves the weights, and a run that ends because of a failure saves nothing more.
    """

    name = "checkpoints"

    def __init__(self, interval: int) -> None:
        self._interval = interval
        self._due = False
        self._saved = -1

    def on_step(self, trainer: Trainer, result: StepResult) -> None:
        trainer.store.poll()
        if trainer.stopping is not None:
            return  # on_end saves
        if self._interval and trainer.step % self._interval == 0:
            self._due = True
        training = trainer.config.training
        unfreezes = trainer.step == training.unfreeze_at_step and trainer.step < training.steps
        if (self._due and result.updated) or unfreezes:
            self._save(trainer)
        if unfreezes:
            trainer.store.finish()
            trainer.rebuild_from(trainer.store.latest())

    def on_end(self, trainer: Trainer) -> None:
        if trainer.step > trainer.resumed_step and self._saved != trainer.step and not trainer.failed:
            self._save(trainer)
        trainer.store.finish()

    def _save(self, trainer: Trainer) -> None:
        started = time.perf_counter()
        trainer.save()
        done = "is written in the background" if trainer.config.checkpoint.async_save else "saved"
        self._saved, self._due = trainer.step, False
        trainer.event("checkpoint", f"step {trainer.step} {done}, {time.perf_counter() - started:.1f} s of the loop")
