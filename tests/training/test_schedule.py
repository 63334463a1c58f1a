"""Learning rates: values worked out by hand, the formula in numpy, and what a run really uses."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from megatron_bielik.config import OptimizerConfig, ScheduleConfig
from megatron_bielik.parallel.runtime import Runtime
from megatron_bielik.training.schedule import learning_rate
from tests.conftest import records
from tests.training.in_process import small_config, train

OPTIMIZER = OptimizerConfig(lr=1.0, min_lr=0.1)
SHAPES = {
    "cosine": ScheduleConfig("cosine", warmup_steps=10),
    "linear": ScheduleConfig("linear", warmup_steps=10),
    "wsd": ScheduleConfig("wsd", warmup_steps=10, cooldown_steps=40),
    "constant": ScheduleConfig("constant", warmup_steps=10),
}
TOTAL = 110


def rates(name: str, total: int = TOTAL) -> list[float]:
    """Rate of each step from 1 to the end."""
    return [learning_rate(step, OPTIMIZER, SHAPES[name], total) for step in range(1, total + 1)]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        # Step 60 is the middle of the decay from 10 to 110, step 35 a quarter of it.
        ("cosine", {1: 0.1, 5: 0.5, 10: 1.0, 35: 0.1 + 0.45 * (1 + math.sqrt(0.5)), 60: 0.55, 110: 0.1, 500: 0.1}),
        ("linear", {1: 0.1, 5: 0.5, 10: 1.0, 35: 0.775, 60: 0.55, 109: 0.109, 110: 0.1, 500: 0.1}),
        # The fall is from 70 to 110; after a quarter of it half is gone.
        ("wsd", {1: 0.1, 10: 1.0, 11: 1.0, 70: 1.0, 80: 0.55, 110: 0.1, 500: 0.1}),
        ("constant", {1: 0.1, 10: 1.0, 11: 1.0, 110: 1.0, 500: 1.0}),
    ],
)
def test_values_by_hand(name: str, values: dict[int, float]) -> None:
    for step, expected in values.items():
        assert learning_rate(step, OPTIMIZER, SHAPES[name], TOTAL) == pytest.approx(expected, rel=1e-14), step


@pytest.mark.parametrize("name", SHAPES)
def test_whole_curve(name: str) -> None:
    steps = np.arange(1, TOTAL + 1, dtype=np.float64)
    share = {
        "cosine": 0.5 * (1 + np.cos(np.pi * (steps - 10) / 100)),
        "linear": 1 - (steps - 10) / 100,
        "wsd": 1 - np.sqrt(np.clip((steps - 70) / 40, 0, 1)),
        "constant": np.ones_like(steps),
    }[name]
    expected = np.where(steps <= 10, steps / 10, 0.1 + 0.9 * share)
    np.testing.assert_allclose(rates(name), expected, rtol=1e-13)
    got = np.array(rates(name))
    assert (np.diff(got[9:]) <= 0).all(), "never rises after the warm-up"
    # No jump: a step changes the rate by no more than its steepest slope (the square root falls fastest at its start).
    steepest = {"cosine": 0.9 * np.pi / 2 / 100, "linear": 0.9 / 100, "wsd": 0.9 * math.sqrt(1 / 40), "constant": 0.0}
    assert np.abs(np.diff(got[9:])).max() <= steepest[name] + 1e-12


def test_decay_steps_stand_apart_from_the_length_of_the_run() -> None:
    schedule = ScheduleConfig("linear", decay_steps=100)
    for total in (50, 100, 1000):
        assert learning_rate(50, OPTIMIZER, schedule, total) == pytest.approx(0.55)
        assert learning_rate(101, OPTIMIZER, schedule, total) == 0.1
    # Without them a longer run is another curve.
    longer = learning_rate(60, OPTIMIZER, SHAPES["cosine"], 210)
    assert longer == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi / 4)))


@pytest.mark.parametrize("name", ["cosine", "linear", "wsd", "constant"])
def test_edges(name: str) -> None:
    """No warm-up, nothing but warm-up, no cool-down, one step: no division by zero, and the end is the end."""
    bare = ScheduleConfig(name)  # type: ignore[arg-type]
    end = 1.0 if name in ("constant", "wsd") else 0.1
    assert learning_rate(1, OPTIMIZER, bare, 1) == end
    assert 0.1 <= learning_rate(1, OPTIMIZER, bare, 10) <= 1.0
    only = ScheduleConfig(name, warmup_steps=10)  # type: ignore[arg-type]
    assert learning_rate(10, OPTIMIZER, only, 10) == 1.0
    assert learning_rate(11, OPTIMIZER, only, 10) == (1.0 if name == "constant" else 0.1)


def test_wsd_of_cooldown_alone() -> None:
    schedule = ScheduleConfig("wsd", cooldown_steps=4)
    got = [learning_rate(step, OPTIMIZER, schedule, 4) for step in range(1, 5)]
    assert got == pytest.approx([0.55, 0.1 + 0.9 * (1 - math.sqrt(0.5)), 0.1 + 0.9 * (1 - math.sqrt(0.75)), 0.1])


def test_run_uses_the_schedule(shard: Path, tmp_path: Path, single_process: Runtime) -> None:
    """The rate in the log is the formula's, also in a run that is resumed in the middle of the decay."""
    schedule = ScheduleConfig("wsd", warmup_steps=2, decay_steps=8, cooldown_steps=4)
    config = replace(small_config(tmp_path / "run", shard), schedule=schedule)
    for steps in (6, 9):
        trainer = train(replace(config, training=replace(config.training, steps=steps)), single_process)
        assert {group["lr"] for group in trainer._optimizer.param_groups} == {trainer.lr}
    fall = [1e-3 + 9e-3 * (1 - math.sqrt(k / 4)) for k in range(1, 5)]
    expected = [5e-3, 1e-2, 1e-2, 1e-2, *fall, 1e-3]
    assert [record["lr"] for record in records(tmp_path / "run")] == pytest.approx(expected, rel=1e-12)
