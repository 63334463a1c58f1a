"""Two processes give the losses, rates and weights of one, with whole models and with sharded ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

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
from megatron_bielik.posttrain.grpo_trainer import BielikGRPOTrainer
from megatron_bielik.posttrain.rewards.spec import RewardSpec
from megatron_bielik.settings import as_yaml
from tests.conftest import ROOT, records, run
from tests.posttrain.conftest import chats, pairs, small, write_rows
from tests.posttrain.test_grpo import HERE, prompts
from tests.posttrain.two_ranks import answer_from_a_table, train_all

SCRIPT = str(Path(__file__).with_name("two_ranks.py"))
CLOCK = ("time", "step_seconds", "tokens_per")
METHODS = ("sft", "dpo", "grpo")


@pytest.fixture(scope="module")
def runs(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the runs <method>-<ranks>-<sharding>."""
    folder = tmp_path_factory.mktemp("ranks")
    train = [str(write_rows(folder / "chats.jsonl", chats(40)))]
    valid = [str(write_rows(folder / "valid.jsonl", chats(5, seed=1)))]
    preferences = [str(write_rows(folder / "pairs.jsonl", pairs(13)))]
    questions = [str(write_rows(folder / "prompts.jsonl", prompts(5)))]
    model = models_folder / "bielik"
    configs = {
        "sft": SFTConfig(data=SFTData(train, valid, sequence_length=160, sample_weights=True)),
        "dpo": DPOConfig(data=DPOData(preferences, preferences[:], sequence_length=160)),
        "grpo": GRPOConfig(
            data=GRPOData(questions),
            rewards=RewardsConfig([RewardSpec(f"{HERE}:by_number")]),
            sampling=Sampling(group_size=4, max_completion_tokens=12, temperature=0.9),
            loss=PolicyLoss("dapo", kl_coefficient=0.05, kl_limit=None, updates_per_batch=2),
        ),
    }
    for name, config in configs.items():
        config = small(config, model, folder, optimizer__epsilon=1e-5, optimizer__lr=3e-3, checkpoint__save_interval=2)
        training = replace(config.training, micro_batch_size=2, global_batch_size=8)
        (folder / f"{name}.yaml").write_text(as_yaml(replace(config, training=training)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BielikGRPOTrainer, "_generate_single_turn", answer_from_a_table)
        train_all(folder, "none")
    for sharding in ("none", "fsdp"):
        run([SCRIPT, str(folder), sharding], processes=2, timeout=240, env={"PYTHONPATH": str(ROOT)})
    return folder


@pytest.mark.distributed
@pytest.mark.parametrize("sharding", ["none", "fsdp"])
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_are_as_one(runs: Path, method: str, sharding: str) -> None:
    one, two = runs / f"{method}-1-none", runs / f"{method}-2-{sharding}"
    for kind in ("train", "eval"):
        for mine, theirs in zip(records(two, kind), records(one, kind), strict=True):
            for name, value in theirs.items():
                # TRL averages these over micro-batches, which are others on two ranks.
                if isinstance(value, float) and not name.startswith((*CLOCK, "entropy", "kl", "clip_ratio")):
                    assert mine[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
            assert mine.get("label_tokens") == theirs.get("label_tokens")
    weights = load_file(two / "final" / "model.safetensors")
    for name, tensor in load_file(one / "final" / "model.safetensors").items():
        assert (weights[name] - tensor).abs().max() < 2e-5, name


@pytest.mark.distributed
def test_the_adaptive_rate_counts_over_both_ranks(runs: Path) -> None:
    for ranks in ("1-none", "2-none", "2-fsdp"):
        for record in records(runs / f"sft-{ranks}"):
            full = 160 * 8
            assert record["lr"] == pytest.approx(
                record["lr_scheduled"] * (record["label_tokens"] / full) ** 0.5, rel=1e-12
            )


@pytest.mark.distributed
@pytest.mark.parametrize("sharding", ["none", "fsdp"])
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_go_on_to_the_same_losses(runs: Path, method: str, sharding: str) -> None:
    whole, again = runs / f"{method}-2-{sharding}", runs / f"{method}-2-{sharding}-again"
    assert "resumed from step 2 of 4" in {record["message"] for record in records(again, "event")}
    assert [record["loss"] for record in records(again)] == [record["loss"] for record in records(whole)]
    weights = load_file(again / "final" / "model.safetensors")
    for name, tensor in load_file(whole / "final" / "model.safetensors").items():
        assert weights[name].equal(tensor), name


@pytest.mark.distributed
def test_sharded_means_sharded(runs: Path) -> None:
    """accelerate would train whole models on CPUs without a word."""
    for method in METHODS:
        assert (runs / f"{method}-2-fsdp" / "checkpoint-4" / "pytorch_model_fsdp_0").is_dir()
        assert (runs / f"{method}-2-none" / "checkpoint-4" / "model.safetensors").is_file()
