"""One model, one result: every parallel layout gives the losses and weights of a single process, and resumes any other."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from megatron_bielik.checkpoint_files import (
    CHECKPOINTS,
    find_checkpoint,
    name_of_step,
    point_latest,
    read_description,
)
from megatron_bielik.surgery.architecture import mappings
from megatron_bielik.surgery.native_files import NativeReader
from tests.conftest import records, run

STEPS, HALF = 20, 10
TP2 = ["--parallel.tensor_parallel_size=2"]
CP2 = ["--parallel.context_parallel_size=2"]
PP2 = ["--parallel.pipeline_parallel_size=2"]
WHOLE = ["--data.respect_document_boundaries=false"]  # otherwise rows are packed documents
CHUNKS = ["--training.loss_chunk_tokens=48"]
NO_OVERLAP = ["--parallel.overlap_grad_reduce=false", "--parallel.overlap_param_gather=false"]
TIED = ["--model.architecture=qwen2", "--model.tie_embeddings=true"]
# Recomputation changes no result, so it is tried where a layout is tried anyway.
LAYOUTS: dict[str, tuple[int, list[str]]] = {
    "one": (1, []),
    "tp2": (2, TP2),
    "tp2-sequence": (2, [*TP2, "--parallel.sequence_parallel=true", "--parallel.recompute=selective", *CHUNKS]),
    "tp4": (4, ["--parallel.tensor_parallel_size=4", *NO_OVERLAP]),  # more ranks than key/value groups
    "pp2": (2, PP2),
    "pp2-interleaved": (2, [*PP2, "--parallel.virtual_pipeline_parallel_size=2", "--parallel.recompute=full"]),
    "dp2": (2, []),
    "tp2-pp2": (4, [*TP2, *PP2]),
    "cp2": (2, CP2),
    "cp2-tp2": (4, [*CP2, *TP2, "--parallel.sequence_parallel=true"]),
    "cp2-pp2": (4, [*CP2, *PP2, "--parallel.recompute=full"]),
    "one-whole": (1, WHOLE),
    "cp2-whole": (2, [*CP2, *WHOLE]),
    "one-tied": (1, TIED),
    "pp2-tied": (2, [*PP2, *TIED, *CHUNKS]),  # a copy of the matrix on each end of the pipeline
}

pytestmark = pytest.mark.distributed


def train(shard: Path, folder: Path, layout: str) -> Path:
    """Train the toy model under a layout, from the start or from the checkpoint in the folder; returns the folder."""
    processes, flags = LAYOUTS[layout]
    options = {
        "model.vocab_size": 1001,
        "model.make_vocab_size_divisible_by": 100,  # another padding under another tensor-parallel size
        "data.train": f"[{{prefix: {shard}}}]",
        "data.sequence_length": 64,
        "training.steps": STEPS,
        "training.micro_batch_size": 2,
        "training.global_batch_size": 8,
        "training.precision": "fp32",
        "optimizer.lr": 1e-3,
        # The gradient of a key bias nearly vanishes (softmax does not see a constant added to all scores). With the usual
        # 1e-8 Adam makes full-sized steps of its rounding noise: 4e-5 between layouts in that bias alone.
        "optimizer.epsilon": 1e-6,
        "schedule.warmup_steps": 5,
        "checkpoint.dir": folder,
        "checkpoint.save_interval": HALF,
        "logging.tensorboard": "false",
    }
    run(
        ["-m", "megatron_bielik.pretrain", *(f"--{name}={value}" for name, value in options.items()), *flags], processes
    )
    return folder


@pytest.fixture(scope="module")
def trained(shard: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The run of a layout, trained when first asked for."""

    @cache
    def of(layout: str) -> Path:
        return train(shard, tmp_path_factory.mktemp("runs") / layout, layout)

    return of


def as_if_stopped_halfway(finished: Path, copy: Path) -> Path:
    """A copy of a run whose newest checkpoint is the one of the middle."""
    shutil.copytree(finished, copy)
    shutil.rmtree(copy / CHECKPOINTS / name_of_step(STEPS))
    point_latest(copy / CHECKPOINTS, name_of_step(HALF))
    return copy


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Final weights by our names, without padding."""
    checkpoint = find_checkpoint(run)
    shape, step = read_description(checkpoint)
    assert step == STEPS
    reader = NativeReader(checkpoint)
    return {m.native: reader.read(m.native)[: m.native_shape[0]] for m in mappings(shape)}


def assert_same_training(run: Path, reference: Path, tolerance: float, of_weights: float | None = None) -> None:
    """Losses, gradient norms and final weights agree relatively; tolerance 0 means bit for bit."""
    ours, theirs = records(run), records(reference)
    assert [r["step"] for r in ours] == [r["step"] for r in theirs] == list(range(1, STEPS + 1))
    for key in ("loss", "grad_norm"):
        for mine, other in zip(ours, theirs, strict=True):
            assert mine[key] == pytest.approx(other[key], rel=tolerance, abs=0), f"{key} of step {mine['step']}"
    expected = weights(reference)
    for name, tensor in weights(run).items():
        error = (tensor - expected[name]).norm() / expected[name].norm()
        assert error <= (of_weights or tolerance), f"{name}: relative error {error:.2e}"


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if not name.startswith("one")])
def test_layout_trains_as_one_rank_does(layout: str, trained: Callable[[str], Path]) -> None:
    variant = layout.rpartition("-")[2]
    reference = trained(f"one-{variant}" if f"one-{variant}" in LAYOUTS else "one")
    losses = [record["loss"] for record in records(reference)]
    assert losses[-1] < losses[0] - 0.3, "something is learnt at all"
    # Biases begin at zero, where Adam turns the last digits of a small gradient into steps; test_context_gradients compares the
    # gradients of this layout themselves.
    assert_same_training(trained(layout), reference, 1e-5, of_weights=1e-4 if layout == "cp2-whole" else None)


@pytest.mark.parametrize(("first", "second"), [("tp2-pp2", "dp2"), ("dp2", "tp2-sequence"), ("tp2", "pp2-interleaved")])
def test_run_resumes_under_another_layout(
    first: str, second: str, trained: Callable[[str], Path], shard: Path, tmp_path: Path
) -> None:
    begun = as_if_stopped_halfway(trained(first), tmp_path / "run")
    assert_same_training(train(shard, begun, second), trained("one"), 1e-5)
    assert (begun / CHECKPOINTS / name_of_step(STEPS)).is_dir()
