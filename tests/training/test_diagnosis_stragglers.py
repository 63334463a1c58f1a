"""The slowest rank: which one the log names, and a rank of a real run that is made slow."""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_bielik.training.callbacks import slowest_rank
from megatron_bielik.training.diagnosis.diagnose import diagnose
from tests.conftest import records

# What pretrain runs, with every forward pass of rank 1 a little longer.
SLOW_RANK = """
import os, sys, time

from megatron_bielik import pretrain
from megatron_bielik.parallel import runtime

if __name__ == "__main__":
    start = runtime.start

    def start_slowly(*arguments):
        here = start(*arguments)
        from megatron_bielik.model.gpt import BielikModel

        forward = BielikModel.forward

        def slow(self, *inputs, **options):
            time.sleep(0.05 if here.rank == 1 else 0.0)
            return forward(self, *inputs, **options)

        BielikModel.forward = slow
        return here

    runtime.start = start_slowly
    sys.exit(pretrain.main())
"""


def arguments(folder: Path, shard: Path, steps: int, batch: int) -> list[str]:
    """Options of a run of two data-parallel ranks with one sample a micro-batch."""
    options = {
        "data.train": f'[{{"prefix": "{shard}"}}]', "data.sequence_length": 16, "model.vocab_size": 1000,
        "training.steps": steps, "training.global_batch_size": batch, "training.precision": "fp32",
        "checkpoint.dir": folder / "run", "logging.tensorboard": "false",
    }  # fmt: skip
    return [part for name, value in options.items() for part in (f"--{name}", str(value))]


def test_ranks_are_compared_within_their_pipeline_stage() -> None:
    assert slowest_rank([1.0, 1.2, 5.0, 5.1], stages=2) == {
        "slowest_rank": 1, "slowest_rank_seconds": 1.2, "median_rank_seconds": 1.0,
    }  # fmt: skip
    assert slowest_rank([1.0, 1.0, 3.0], stages=1)["slowest_rank"] == 2
    assert slowest_rank([1.0, 3.0], stages=2) == {}
    assert slowest_rank([2.0], stages=1) == {}
    assert slowest_rank([], stages=1) == {}
    assert slowest_rank([0.0, 0.0], stages=1) == {}


@pytest.mark.distributed
def test_a_slow_rank_of_a_real_run_is_named(
    tmp_path: Path, shard: Path, run: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    script = tmp_path / "slow.py"
    script.write_text(SLOW_RANK)
    run([str(script), *arguments(tmp_path, shard, steps=25, batch=8)], processes=2)
    logged = records(tmp_path / "run")[1:]
    assert {record["slowest_rank"] for record in logged} == {1}
    # Of four micro-batches a step the first is left out: there the other rank waits for the slow one's weights. The median,
    # as other programs use the cores too.
    longer = statistics.median(record["slowest_rank_seconds"] - record["median_rank_seconds"] for record in logged)
    assert longer == pytest.approx(3 * 0.05, abs=0.03)
    (found,) = [one for one in diagnose(tmp_path / "run", checkpoints=0).wrong if one.check == "stragglers"]
    assert found.message.startswith("rank 1 is the slowest in 100% of the records")


@pytest.mark.distributed
def test_one_micro_batch_a_step_names_no_rank(
    tmp_path: Path, shard: Path, run: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    run(["-m", "megatron_bielik.pretrain", *arguments(tmp_path, shard, steps=3, batch=2)], processes=2)
    assert all("slowest_rank" not in record for record in records(tmp_path / "run"))
