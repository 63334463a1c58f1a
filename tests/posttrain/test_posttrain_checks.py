"""Options that cannot be run are refused in one line before anything heavy is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from megatron_bielik.posttrain.checks import check
from megatron_bielik.posttrain.config import DPOConfig, DPOData, GRPOConfig, GRPOData, RewardsConfig, SFTConfig, SFTData
from megatron_bielik.posttrain.rewards.spec import RewardSpec
from megatron_bielik.settings import SettingsError, as_yaml, make_parser, parse
from tests.conftest import ROOT
from tests.posttrain.conftest import small

CONFIGS = {
    "sft": SFTConfig(data=SFTData(["x"])),
    "dpo": DPOConfig(data=DPOData(["x"])),
    "grpo": GRPOConfig(data=GRPOData(["x"]), rewards=RewardsConfig([RewardSpec("length")])),
}


@pytest.mark.parametrize(
    ("method", "option", "value", "words"),
    [
        ("sft", "model__path", "", "model.path is empty"),
        ("sft", "model__path", "/none", "no config.json in it"),
        ("sft", "data__train", [], "data.train is empty"),
        ("sft", "training__global_batch_size", 3, "multiple of training.micro_batch_size x processes = 2 x 1"),
        ("sft", "training__micro_batch_size", 0, "training.micro_batch_size is 0, it must be at least 1"),
        ("sft", "training__steps", 0, "training.steps is 0"),
        ("sft", "training__epochs", 0.0, "training.epochs is 0.0, it must be above 0"),
        ("sft", "optimizer__lr", float("nan"), "optimizer.lr is nan, it must be a finite number"),
        ("sft", "optimizer__min_lr", 1.0, "optimizer.min_lr is 1.0"),
        ("sft", "optimizer__beta2", 1.0, "optimizer.beta2 is 1.0"),
        ("sft", "data__sequence_length", 1, "data.sequence_length is 1"),
        ("sft", "data__max_bad_share", 1.5, "data.max_bad_share is 1.5"),
        ("sft", "model__attention", "flash_attention_2", "needs the package flash_attn"),
        ("sft", "logging__wandb_project", "p", "needs the package wandb"),
        ("dpo", "loss__beta", 0.0, "loss.beta is 0.0"),
        ("dpo", "loss__positive", -1.0, "loss.positive is -1.0"),
        ("grpo", "rewards__functions", [], "rewards.functions is empty"),
        ("grpo", "sampling__group_size", 1, "sampling.group_size is 1"),
        ("grpo", "sampling__group_size", 3, "multiple of sampling.group_size 3"),
        ("grpo", "sampling__engine", "vllm", r"megatron-bielik\[vllm\]"),
        ("grpo", "sampling__top_p", 0.0, "sampling.top_p is 0.0"),
        ("grpo", "loss__kl_coefficient", 0.0, "loss.kl_limit needs the reference"),
        ("grpo", "loss__variant", "dr_grpo", "does not scale advantages"),
        ("grpo", "model__kernels", ["cross_entropy"], "does not know sampling.temperature"),
        ("grpo", "rewards__timeout_seconds", 0.0, "rewards.timeout_seconds is 0.0"),
    ],
)
def test_refused(models_folder: Path, tmp_path: Path, method: str, option: str, value: Any, words: str) -> None:
    config = small(CONFIGS[method], models_folder / "qwen2", tmp_path)
    if method == "grpo":
        config = small(config, models_folder / "qwen2", tmp_path, sampling__group_size=4)
    assert check(config, 1) == 2
    kept = {"sampling__group_size": 4} if method == "grpo" else {}
    with pytest.raises(SettingsError, match=words):
        check(small(config, models_folder / "qwen2", tmp_path, **{**kept, option: value}), 1)


@pytest.mark.parametrize("method", ["sft", "dpo", "grpo"])
def test_yaml_gives_back_the_options(method: str, tmp_path: Path) -> None:
    config = CONFIGS[method]
    (tmp_path / "c.yaml").write_text(as_yaml(config))
    parser = make_parser(method, "", options=type(config))
    assert parse(parser, [f"--config={tmp_path / 'c.yaml'}"])[0] == config
    assert parse(parser, [])[0] == type(config)()


@pytest.mark.parametrize("method", ["sft", "dpo", "grpo"])
def test_help_and_refusals_do_not_load_torch(method: str) -> None:
    code = (
        f"import sys; from megatron_bielik.posttrain import {method}; code = {method}.main(['--optimizer.lrr', '1']); "
        "print(code, 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "2 False False"
    assert done.stderr.strip() == "error: unknown option optimizer.lrr; did you mean optimizer.lr?"
    command = [sys.executable, "-m", f"megatron_bielik.posttrain.{method}", "--help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "examples:" in shown
    assert "--dry_run" in shown
