"""A run killed after any step goes on to the same losses and weights; half-written checkpoints do not count."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from megatron_bielik.posttrain import checkpoints, dpo, grpo, sft
from megatron_bielik.posttrain.config import (
    DPOConfig,
    DPOData,
    GRPOConfig,
    GRPOData,
    PolicyLoss,
    RewardsConfig,
    Sampling,
    SFTConfig,
    SFTData,
)
from megatron_bielik.posttrain.rewards.spec import RewardSpec
from megatron_bielik.settings import as_yaml
from tests.conftest import ROOT, records
from tests.posttrain.conftest import chats, pairs, small, write_rows
from tests.posttrain.test_grpo import HERE, prompts

STEPS = 5


@pytest.fixture(scope="module", params=["sft", "dpo", "grpo", "grpo-2-updates"])
def whole(request: pytest.FixtureRequest, models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run that was not interrupted, with a checkpoint after every step; more than one epoch of its data."""
    folder = tmp_path_factory.mktemp(request.param)
    rewards = RewardsConfig([RewardSpec(f"{HERE}:by_number")])
    updates = 2 if request.param.endswith("updates") else 1
    configs: dict[str, tuple[Any, Any]] = {
        "sft": (sft, SFTConfig(data=SFTData([str(write_rows(folder / "c.jsonl", chats(20)))], sequence_length=160))),
        "dpo": (dpo, DPOConfig(data=DPOData([str(write_rows(folder / "p.jsonl", pairs(9)))], sequence_length=160))),
        "grpo": (
            grpo,
            GRPOConfig(
                data=GRPOData([str(write_rows(folder / "q.jsonl", prompts(3)))]),
                rewards=rewards,
                sampling=Sampling(group_size=2, max_completion_tokens=8),
                loss=PolicyLoss(kl_limit=None, updates_per_batch=updates),
            ),
        ),
    }
    module, config = configs[request.param.partition("-")[0]]
    config = small(
        config, models_folder / "qwen2", folder / "run",
        training__steps=STEPS, checkpoint__save_interval=1, schedule__warmup_steps=2, optimizer__lr=1e-3,
    )  # fmt: skip
    assert module.train(config, 2) == 0
    return module, config, folder / "run"


def losses(run: Path) -> list[tuple[int, float, float, int]]:
    return [(r["step"], r["loss"], r["grad_norm"], r["tokens"]) for r in records(run)]


def test_it_goes_on_after_any_step(whole: Any, tmp_path: Path) -> None:
    module, config, run = whole
    saved = [checkpoints.step_of(path) for path in run.glob("checkpoint-*")]
    updates = config.loss.updates_per_batch if isinstance(config, GRPOConfig) else 1
    assert sorted(saved) == sorted({step for step in range(1, STEPS + 1) if step % updates == 0})
    for step in sorted(saved)[:-1]:
        copy = tmp_path / str(step)
        shutil.copytree(run, copy, ignore=shutil.ignore_patterns("final"))
        for later in saved:
            if later == step + 1:  # was being written when the process died
                (copy / f"checkpoint-{later}" / "run_state.json").unlink()
                (copy / f"checkpoint-{later}" / "model.safetensors").write_bytes(b"half")
            elif later > step:
                shutil.rmtree(copy / f"checkpoint-{later}")
        assert module.train(replace(config, checkpoint=replace(config.checkpoint, dir=str(copy))), 2) == 0
        assert losses(copy) == losses(run)
        weights = load_file(copy / "final" / "model.safetensors")
        for name, tensor in load_file(run / "final" / "model.safetensors").items():
            assert weights[name].equal(tensor), name


@pytest.fixture
def started(models_folder: Path, tmp_path: Path) -> Any:
    """Starts a run of many steps as a process of its own and waits until it has done a few."""
    data = SFTData([str(write_rows(tmp_path / "c.jsonl", chats(40)))], sequence_length=160)
    config = small(
        SFTConfig(data=data), models_folder / "qwen2", tmp_path / "run",
        training__steps=400, checkpoint__save_interval=3, checkpoint__keep_last=2, schedule__decay="constant",
    )  # fmt: skip
    (tmp_path / "run.yaml").write_text(as_yaml(config))
    process = subprocess.Popen(
        [sys.executable, "-m", "megatron_bielik.posttrain.sft", "--config", str(tmp_path / "run.yaml")],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (tmp_path / "run" / "log.jsonl").is_file() and len(records(tmp_path / "run")) >= 5:
            break
        time.sleep(0.02)
    yield process, config, tmp_path / "run"
    process.kill()
    process.wait(10)


def test_killed_for_good_it_resumes_to_the_same_losses(started: Any, tmp_path: Path) -> None:
    process, config, run = started
    process.send_signal(signal.SIGKILL)
    process.wait(20)
    before = {step: loss for step, loss, *_ in losses(run)}
    resumed = checkpoints.step_of(checkpoints.newest(run))  # type: ignore[arg-type]
    assert 0 < resumed <= max(before)
    total = max(before) + 2
    config = replace(config, training=replace(config.training, steps=total))
    assert sft.train(config, 2) == 0
    whole = replace(config, checkpoint=replace(config.checkpoint, dir=str(tmp_path / "whole")))
    assert sft.train(whole, 2) == 0
    assert losses(run) == losses(tmp_path / "whole")
    assert all(loss == before.get(step, loss) for step, loss, *_ in losses(run))
    assert len(list((tmp_path / "whole").glob("checkpoint-*"))) == 2  # keep_last


def test_sigterm_saves_and_ends_with_0(started: Any) -> None:
    process, _, run = started
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    last = records(run)[-1]["step"]
    assert last < 400
    assert checkpoints.step_of(checkpoints.newest(run)) == last  # type: ignore[arg-type]
    stops = [record for record in records(run, "event") if record["kind"] == "stop"]
    assert [record["message"] for record in stops] == ["SIGTERM was received"]
    assert not (run / "final").exists()
