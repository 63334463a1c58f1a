"""The dry run: hand-computed bytes, sums, monotonicity, schedule, errors, and that it needs neither torch nor time."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from megatron_bielik.config import (
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    ParallelConfig,
    ScheduleConfig,
    TrainingConfig,
)
from megatron_bielik.presets import PRESETS
from megatron_bielik.training.memory import RECOMPUTE_MODES
from megatron_bielik.training.plan import GIB, RESERVED_BYTES, make_plan
from megatron_bielik.training.plan_report import render

ROOT = Path(__file__).parents[2]


def job(preset: str = "bielik-4.5b-v3", batch: int = 256, length: int = 8192, **parallel: Any) -> Config:
    return Config(
        model=ModelConfig(preset=preset),
        parallel=ParallelConfig(**parallel),
        data=DataConfig(sequence_length=min(length, PRESETS[preset].max_position_embeddings)),
        training=TrainingConfig(steps=1000, global_batch_size=batch, peak_tflops=989.5),
    )


def test_one_gpu_by_hand() -> None:
    """The worked example of docs/planning.md: Bielik 1.5B, 8 GPUs, 4096 tokens."""
    plan = make_plan(job("bielik-1.5b-v3", batch=64, length=4096), 8, 80)
    (stage,) = plan.stages
    n, tokens, h, f, q, kv = 1_596_507_648, 4096, 1536, 8960, 1536, 256
    assert stage.weights == 2 * n
    assert stage.gradients == 4 * n
    assert stage.optimizer == 12 * n // 8
    layer = tokens * (2 * (2 * h + 4) + 2 * 2 * h + 2 * (q + 2 * kv) + 2 * q + 2 * q + 4 * 12 + 2 * 2 * f + 2 * f)
    final_norm, cheap = tokens * 2 * 2 * h, tokens * (2 * 2 * h + 2 * f)
    assert stage.activations["none"] == 32 * layer + final_norm
    assert stage.activations["selective"] == 32 * (layer - cheap) + final_norm
    assert stage.activations["full"] == 32 * tokens * 2 * h + final_norm
    assert stage.logits == tokens * 32_000 * 2
    working = tokens * 3 * 2 * f + 2 * 32_000 * h
    assert plan.needed() == stage.static + stage.activations["none"] + working + RESERVED_BYTES
    assert plan.fits()


def test_fp32_has_no_separate_master() -> None:
    config = replace(job("tiny", batch=8, length=64), training=TrainingConfig(precision="fp32", global_batch_size=8))
    (stage,) = make_plan(config, 2).stages
    n = PRESETS["tiny"].num_parameters()
    assert (stage.weights, stage.gradients, stage.optimizer) == (4 * n, 4 * n, 8 * n // 2)


LAYOUTS: list[tuple[str, dict[str, Any]]] = [
    ("bielik-1.5b-v3", {"pipeline_parallel_size": 4}),
    ("bielik-1.5b-v3", {"tensor_parallel_size": 2, "pipeline_parallel_size": 4, "virtual_pipeline_parallel_size": 2}),
    ("bielik-4.5b-v3", {"tensor_parallel_size": 8, "sequence_parallel": True}),
    ("bielik-4.5b-v3", {"tensor_parallel_size": 2, "pipeline_parallel_size": 2, "virtual_pipeline_parallel_size": 15}),
    ("qwen2.5-1.5b", {"tensor_parallel_size": 4, "pipeline_parallel_size": 2}),
    ("qwen2.5-3b", {}),
    ("tiny", {"tensor_parallel_size": 2, "pipeline_parallel_size": 2, "virtual_pipeline_parallel_size": 2}),
]


@pytest.mark.parametrize(("preset", "parallel"), LAYOUTS)
def test_every_layout(preset: str, parallel: dict[str, Any]) -> None:
    plan = make_plan(job(preset, **parallel), 64, 80)
    pipeline, tensor = plan.config.parallel.pipeline_parallel_size, plan.config.parallel.tensor_parallel_size
    shape = plan.shape
    copies = 1 if shape.tie_embeddings and pipeline > 1 else 0
    padding = plan.config.model.padded_vocab_size(tensor) - shape.vocab_size
    rows = padding * (1 if shape.tie_embeddings and pipeline == 1 else 2) + copies * shape.vocab_size
    assert sum(stage.stage_parameters for stage in plan.stages) == plan.parameters + rows * shape.hidden_size
    for stage in plan.stages:
        # Norms and the biases of row-parallel linears are on every rank: a share is a little more than 1 / t.
        assert stage.stage_parameters / tensor <= stage.parameters <= 1.001 * stage.stage_parameters / tensor + 5000
        assert stage.peak("full") <= stage.peak("selective") <= stage.peak("none")
        assert stage.static < stage.peak("full")
    assert plan.needed("full") <= plan.needed("selective") <= plan.needed("none")
    assert (plan.headroom() or 0) == 80 * GIB - plan.needed()
    assert sorted(layer for stage in plan.stages for layer in stage.layers) == list(range(shape.num_layers))


def test_first_stage_holds_most_micro_batches() -> None:
    stages = make_plan(job(pipeline_parallel_size=4), 64).stages
    held = [stage.layers_in_flight for stage in stages]
    assert held == [60, 45, 30, 15]
    assert [stage.logits > 0 for stage in stages] == [False, False, False, True]


def test_sequence_parallel_splits_norms() -> None:
    without = make_plan(job(tensor_parallel_size=4), 64).worst()
    split = make_plan(job(tensor_parallel_size=4, sequence_parallel=True), 64).worst()
    assert split.activations["none"] < without.activations["none"]
    assert split.activations["full"] * 4 == without.activations["full"]


def test_frozen_parameters_cost_their_weights_only() -> None:
    config = job("bielik-1.5b-v3")
    some = replace(config, training=replace(config.training, trainable=[r"^embedding\.", r"^decoder\.layers\.0\."]))
    plan = make_plan(some, 8)
    trained = 32_000 * 1536 + PRESETS["bielik-1.5b-v3"].layer_parameters()
    assert plan.trained_from_start == plan.worst().trained == trained
    assert plan.worst().gradients == 4 * trained
    assert plan.worst().weights == make_plan(config, 8).worst().weights
    later = replace(some, training=replace(some.training, unfreeze_at_step=500))
    assert make_plan(later, 8).worst().gradients == make_plan(config, 8).worst().gradients
    never = replace(some, training=replace(some.training, unfreeze_at_step=1000))  # the run ends there
    assert make_plan(never, 8).worst().gradients == 4 * trained


def test_schedule_and_bubble() -> None:
    config = replace(
        job(pipeline_parallel_size=4, virtual_pipeline_parallel_size=5),
        schedule=ScheduleConfig(warmup_steps=100, decay="wsd", cooldown_steps=200),
        optimizer=OptimizerConfig(lr=2e-5, min_lr=1e-5),
    )
    plan = make_plan(config, 64, 80)
    assert (plan.data_parallel, plan.micro_batches) == (16, 16)
    assert plan.bubble_of_total == pytest.approx(3 / (16 * 5 + 3))
    assert plan.bubble_of_ideal == pytest.approx(3 / (16 * 5))
    assert [(phase.first_step, phase.last_step) for phase in plan.phases] == [(0, 100), (100, 800), (800, 1000)]
    assert plan.total_tokens == 1000 * 256 * 8192
    days = plan.days(0.5)
    assert days == pytest.approx(plan.total_tokens * plan.flops_causal / (64 * 989.5e12 * 0.5 * 86400))


@pytest.mark.parametrize(
    ("schedule", "boundaries"),
    [
        (ScheduleConfig(), [(0, 1000)]),
        (ScheduleConfig(warmup_steps=10, decay_steps=600), [(0, 10), (10, 600), (600, 1000)]),
        (ScheduleConfig(decay="linear", warmup_steps=10, decay_steps=5000), [(0, 10), (10, 1000)]),
        (ScheduleConfig(decay="constant", warmup_steps=2000), [(0, 1000)]),
        (ScheduleConfig(decay="wsd", decay_steps=1500, cooldown_steps=700), [(0, 800), (800, 1000)]),
        (ScheduleConfig(decay="wsd", decay_steps=1500, cooldown_steps=200), [(0, 1000)]),
    ],
)
def test_phases(schedule: ScheduleConfig, boundaries: list[tuple[int, int]]) -> None:
    phases = make_plan(replace(job(), schedule=schedule), 64).phases
    assert [(phase.first_step, phase.last_step) for phase in phases] == boundaries


def test_peak_by_device_name_and_unknown() -> None:
    config = replace(job(), training=TrainingConfig(global_batch_size=256))
    assert make_plan(config, 64, device_name="NVIDIA A100-SXM4-80GB").peak == 312e12
    assert make_plan(config, 64).days() is None


@pytest.mark.parametrize(
    ("config", "world", "message"),
    [
        (job(tensor_parallel_size=3), 64, r"model\.num_attention_heads is 16"),
        (job("bielik-1.5b-v3", tensor_parallel_size=8), 64, r"model\.num_attention_heads is 12"),
        (job(pipeline_parallel_size=7), 70, r"model\.num_layers is 60"),
        (job(tensor_parallel_size=8), 12, r"world_size is 12"),
        (job(batch=100), 64, r"training\.global_batch_size is 100"),
        (job(virtual_pipeline_parallel_size=2), 64, "interleaving needs at least 2"),
        (
            replace(job(pipeline_parallel_size=2), training=TrainingConfig(trainable=["^embedding"])),
            2,
            "pipeline stage 1 of 2 nothing to train",
        ),
        (job(pipeline_parallel_size=4, virtual_pipeline_parallel_size=5, batch=96), 64, "multiple"),
        (job(batch=0), 64, "must be at least 1"),
        (job(), 0, "world_size is 0"),
        (replace(job(), model=ModelConfig(preset="bielik-99b")), 64, "known are"),
        (replace(job(), training=TrainingConfig(trainable=["nothing"])), 8, "matches no parameter"),
        (job(tensor_parallel_size=2, sequence_parallel=True, length=4097), 64, r"data\.sequence_length is 4097"),
    ],
)
def test_errors_are_one_line(config: Config, world: int, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        make_plan(config, world)
    assert "\n" not in str(error.value)


def test_device_memory_must_be_positive() -> None:
    with pytest.raises(ValueError, match="device_memory_gib is 0"):
        make_plan(job(), 64, 0)


@pytest.mark.parametrize("memory", [None, 8, 40, 80, 640])
@pytest.mark.parametrize(("preset", "parallel"), LAYOUTS)
def test_renders(preset: str, parallel: dict[str, Any], memory: float | None) -> None:
    plan = make_plan(job(preset, **parallel), 64, memory)
    screen = StringIO()
    Console(file=screen, width=80).print(render(plan))
    text = screen.getvalue()
    assert "…" not in text
    expected = {None: "give --device_memory_gib", True: "Fits", False: "Does not fit"}[plan.fits()]
    assert expected in text
    if plan.fits() is False and plan.fits("full"):
        assert "would fit" in text
    assert len(RECOMPUTE_MODES) == sum(text.count(f"\n {mode}") for mode in RECOMPUTE_MODES)


def test_needs_no_torch() -> None:
    code = (
        "import sys; from megatron_bielik.config import Config; from megatron_bielik.training.plan import make_plan; "
        "from megatron_bielik.training.plan_report import render; render(make_plan(Config(), 8, 80)); "
        "sys.exit(any(name.split('.')[0] in ('torch', 'megatron', 'numpy') for name in sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, timeout=60).returncode == 0
