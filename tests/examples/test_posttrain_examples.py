"""The post-training recipes: published values, options that are accepted, scripts that start the right job."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from megatron_bielik.posttrain import checks
from megatron_bielik.posttrain.config import DPOConfig, GRPOConfig, SFTConfig
from megatron_bielik.settings import make_parser, parse

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
KINDS = {"sft": SFTConfig, "dpo": DPOConfig, "grpo": GRPOConfig}
FILES = sorted(path for path in EXAMPLES.glob("*/*.yaml") if path.stem in KINDS)
MODELS = ("bielik-1.5b", "bielik-4.5b")


def load(path: Path) -> Any:
    return parse(make_parser("", "", options=KINDS[path.stem]), [f"--config={path}"])[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_options_are_accepted_on_one_node(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_check_files", lambda config: None)  # neither models nor optional packages are here
    config = load(path)
    assert checks.check(config, 1) >= 1
    if path.parent.name in MODELS:
        assert checks.check(config, 8) == config.training.global_batch_size // config.training.micro_batch_size // 8
        assert config.parallel.sharding == "fsdp"


@pytest.mark.parametrize("model", MODELS)
def test_sft_has_the_published_values(model: str) -> None:
    config = load(EXAMPLES / model / "sft.yaml")
    optimizer, schedule, training = config.optimizer, config.schedule, config.training
    assert (optimizer.lr, optimizer.min_lr, optimizer.weight_decay) == (7e-6, 6e-7, 0.05)
    assert (optimizer.beta1, optimizer.beta2, optimizer.clip_grad) == (0.9, 0.95, 1.0)
    assert (schedule.decay, schedule.warmup_steps) == ("cosine", 50)
    assert (training.global_batch_size, training.epochs, training.precision) == (128, 1.2, "bf16")
    assert (config.data.sequence_length, config.data.packing, config.adaptive_lr.enabled) == (8192, True, True)


@pytest.mark.parametrize("model", MODELS)
def test_dpo_has_the_published_values(model: str) -> None:
    config = load(EXAMPLES / model / "dpo.yaml")
    optimizer, schedule, training = config.optimizer, config.schedule, config.training
    assert (config.loss.beta, config.loss.positive) == (0.1, 2.5)
    assert (optimizer.lr, optimizer.weight_decay, optimizer.beta1, optimizer.beta2) == (5e-7, 0.0, 0.9, 0.95)
    assert (schedule.decay, schedule.warmup_steps) == ("constant", 50)
    assert (training.steps, training.global_batch_size, optimizer.clip_grad) == (1800, 64, 1.0)


def test_grpo_has_the_published_values() -> None:
    config = load(EXAMPLES / "bielik-4.5b" / "grpo.yaml")
    assert (config.optimizer.lr, config.training.global_batch_size) == (1e-6, 128)
    assert (config.loss.kl_coefficient, config.loss.scale, config.loss.unbiased_kl) == (0.001, "group", False)
    assert not (EXAMPLES / "bielik-1.5b" / "grpo.yaml").exists()


@pytest.mark.parametrize(
    ("model", "script", "method"),
    [
        ("bielik-1.5b", "10_sft.sh", "sft"),
        ("bielik-1.5b", "12_dpo.sh", "dpo"),
        ("bielik-4.5b", "10_sft.sh", "sft"),
        ("bielik-4.5b", "12_dpo.sh", "dpo"),
        ("bielik-4.5b", "13_grpo.sh", "grpo"),
    ],
)
def test_stages_start_their_job_and_link_the_result(model: str, script: str, method: str, tmp_path: Path) -> None:
    launcher = tmp_path / "launcher"
    launcher.write_text(f'#!/bin/sh\necho "$MODULE $*" > {tmp_path}/called\nmkdir -p {tmp_path}/run/final\n')
    launcher.chmod(0o755)
    names = {"LAUNCH": str(launcher), "RUN": str(tmp_path / "run"), "OUTPUT": str(tmp_path / "models" / "out")}
    before = {"sft": "base", "dpo": "sft-merged", "grpo": "dpo"}[method]
    given = tmp_path / f"{model}-{before}"
    given.mkdir()
    names["MODEL"] = str(given)
    for variable in ("CHAT", "PAIRS", "PROBLEMS", "VALID"):
        names[variable] = str(tmp_path / f"{variable}.jsonl")
        (tmp_path / f"{variable}.jsonl").touch()
    command = [str(EXAMPLES / model / script), "--training.seed", "7"]
    subprocess.run(command, cwd=ROOT, env={**os.environ, **names}, timeout=60, check=True)
    module, *arguments = (tmp_path / "called").read_text().split()
    assert module == f"megatron_bielik.posttrain.{method}"
    config, _ = parse(make_parser("", "", options=KINDS[method]), arguments)
    assert config.model.path == str(given)
    assert load(EXAMPLES / model / f"{method}.yaml").model.path == f"models/{model}-{before}"
    assert (config.checkpoint.dir, config.training.seed) == (str(tmp_path / "run"), 7)
    trained = {"sft": "CHAT", "dpo": "PAIRS", "grpo": "PROBLEMS"}[method]
    assert [*config.data.train, *config.data.valid] == [str(tmp_path / f"{name}.jsonl") for name in (trained, "VALID")]
    assert (tmp_path / "models" / "out").resolve() == tmp_path / "run" / "final"
    subprocess.run(command, cwd=ROOT, env={**os.environ, **names}, timeout=60, check=True)  # the link is there already


def test_the_launcher_starts_other_jobs(tmp_path: Path) -> None:
    fake = tmp_path / "torchrun"
    fake.write_text(f'#!/bin/sh\necho "$*" > {tmp_path}/called\n')
    fake.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "MODULE": "megatron_bielik.posttrain.dpo"}
    launcher = str(EXAMPLES / "launch" / "torchrun.sh")
    subprocess.run([launcher, "--config", "x.yaml"], cwd=ROOT, env=environment, timeout=60, check=True)
    assert (tmp_path / "called").read_text().strip().endswith("-m megatron_bielik.posttrain.dpo --config x.yaml")
