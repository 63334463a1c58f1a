"""GRPO's variants against their formulas in float64, the guard on the divergence, rewards that fail, order and evaluation."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM
from trl import GRPOConfig as Arguments

from megatron_bielik.posttrain import grpo
from megatron_bielik.posttrain.chat import fingerprint
from megatron_bielik.posttrain.config import GRPOConfig, GRPOData, PolicyLoss, RewardsConfig, Sampling
from megatron_bielik.posttrain.grpo_data import encode_prompts, prompt_ids
from megatron_bielik.posttrain.grpo_trainer import BielikGRPOTrainer
from megatron_bielik.posttrain.job import one_line
from megatron_bielik.posttrain.order import PromptStream, RowStream, steps_of
from megatron_bielik.posttrain.rewards.calls import RewardCalls
from megatron_bielik.posttrain.rewards.spec import RewardSpec
from megatron_bielik.posttrain.rewards.worker import RewardWorker
from megatron_bielik.posttrain.run import load_encoder, load_model, make_arguments
from tests.conftest import records
from tests.posttrain.conftest import WORDS, small, write_rows

HERE = "tests.posttrain.bad_rewards"
SAMPLING = Sampling(group_size=4, max_completion_tokens=12, temperature=0.7)


def prompts(count: int) -> list[dict[str, Any]]:
    return [
        {"id": number, "messages": [{"role": "user", "content": f"{WORDS[number % 7]} {number}"}], "answer": "1"}
        for number in range(count)
    ]


def config_of(model: Path, folder: Path, *rewards: RewardSpec, count: int = 6, **options: Any) -> GRPOConfig:
    path = write_rows(folder / "prompts.jsonl", prompts(count))
    specs = list(rewards) or [RewardSpec(f"{HERE}:by_number")]
    config = GRPOConfig(data=GRPOData([str(path)]), rewards=RewardsConfig(specs), sampling=SAMPLING)
    return small(
        config, model, folder / "run", **{"training__micro_batch_size": 4, "training__global_batch_size": 8, **options}
    )


def made_up_answers(end: int, pad: int) -> list[list[int]]:
    """Eight answers of different lengths; two are cut at the limit."""
    draw = np.random.default_rng(3)
    lengths = [3, 12, 1, 7, 12, 5, 2, 9]
    rows = [draw.integers(40, 400, length).tolist() for length in lengths]
    return [row if len(row) == 12 else [*row, end] for row in rows]


def shifted(model: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.03 * torch.randn(parameter.shape, generator=generator)


def log_probs(model: Any, prompt: list[int], answer: list[int], temperature: float) -> torch.Tensor:
    """Of an answer's tokens, one sequence at a time by transformers' own forward."""
    ids = torch.tensor([prompt + answer])
    found = (model(ids).logits[0, :-1] / temperature).log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
    return found[len(prompt) - 1 :]


VARIANTS = [
    PolicyLoss("grpo", "group", 0.2, 0.3, 0.05, None, False, 2),
    PolicyLoss("dapo", "group", 0.2, 0.3, 0.05, None, False, 2),
    PolicyLoss("dr_grpo", "none", 0.2, 0.2, 0.05, None, False, 2),
    PolicyLoss("dapo", "batch", 0.1, 0.4, 0.0, None, False, 2),
    PolicyLoss("grpo", "group", 0.2, 0.2, 0.05, None, True, 2),
]


@pytest.mark.parametrize("mask_truncated", [False, True])
@pytest.mark.parametrize("loss", VARIANTS, ids=lambda loss: f"{loss.variant}-{loss.scale}-{loss.unbiased_kl}")
def test_loss_and_gradients_agree_with_the_formula_in_float64(
    models_folder: Path, tmp_path: Path, loss: PolicyLoss, mask_truncated: bool
) -> None:
    config = config_of(models_folder / "qwen2", tmp_path, count=2)
    config = replace(config, loss=loss, sampling=replace(SAMPLING, mask_truncated=mask_truncated))
    encoder = load_encoder(config)
    made = encode_prompts(tmp_path, "train", config.data.train, config.data, encoder, fingerprint(encoder.tokenizer))
    rows = Dataset.from_file(str(made.path))
    arguments = make_arguments(config, 2, Arguments, steps=4, **grpo._arguments(config, 2))
    with RewardWorker(config.rewards.functions) as worker:
        trainer = BielikGRPOTrainer(
            config, encoder, worker,
            model=load_model(config), args=arguments, train_dataset=rows, processing_class=encoder.tokenizer,
        )  # fmt: skip
        shifted(trainer.model, 1)  # what sampled the answers is not the reference
        old = load_model(config).double()
        old.load_state_dict({name: value.double() for name, value in trainer.model.state_dict().items()})
        answers = made_up_answers(encoder.end_of_turn, encoder.tokenizer.pad_token_id)
        trainer._generate_single_turn = lambda *_, **__: (answers, None)
        trainer.current_gradient_accumulation_steps = 2
        trainer.model.train()
        batch = [rows[number] for number in (0, 0, 0, 0, 1, 1, 1, 1)]
        trainer._prepare_inputs(batch)
        shifted(trainer.model, 2)  # and it has moved since
        parts = [trainer._compute_loss(trainer.model, inputs) for inputs in trainer._buffered_inputs]
        torch.stack(parts).sum().backward()
        rewards = np.array(
            [trainer.rewards.score([answer], [row["sample"]])[0, 0] for answer, row in zip(answers, batch, strict=True)]
        )

    policy, reference = load_model(config).double(), load_model(config).double()
    policy.load_state_dict({name: value.double() for name, value in trainer.model.state_dict().items()})
    groups = rewards.reshape(2, 4)
    advantages = groups - groups.mean(1, keepdims=True)
    spread = {"group": groups.std(1, ddof=1, keepdims=True), "batch": rewards.std(ddof=1)}
    if loss.scale != "none":
        advantages = advantages / (spread[loss.scale] + 1e-4)
    total, tokens = torch.zeros((), dtype=torch.float64), 0
    per_answer = []
    for row, answer, advantage in zip(batch, answers, advantages.ravel(), strict=True):
        prompt = prompt_ids(encoder, row["prompt"])
        new = log_probs(policy, prompt, answer, 0.7)
        with torch.no_grad():
            before, ref = log_probs(old, prompt, answer, 0.7), log_probs(reference, prompt, answer, 0.7)
        ratio = torch.exp(new - before)
        clipped = ratio.clamp(1 - loss.clip_low, 1 + loss.clip_high)
        k3 = torch.exp(ref - new) - (ref - new) - 1
        k3 = k3 * ratio if loss.unbiased_kl else k3
        each = -torch.minimum(ratio * advantage, clipped * advantage) + loss.kl_coefficient * k3
        if mask_truncated and answer[-1] != encoder.end_of_turn:
            each = each[:0]
        total, tokens = total + each.sum(), tokens + len(each)
        per_answer.append(each.mean() if len(each) else each.sum())
    expected = {
        "grpo": torch.stack(per_answer).mean(),
        "dapo": total / tokens,
        "dr_grpo": total / (8 * config.sampling.max_completion_tokens),
    }[loss.variant]
    expected.backward()
    assert float(torch.stack(parts).sum()) == pytest.approx(float(expected), abs=1e-6)
    gradients = dict(policy.named_parameters())
    largest = max(float(parameter.grad.abs().max()) for parameter in gradients.values())
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(
            parameter.grad.double() / largest, gradients[name].grad / largest, atol=1e-6, rtol=1e-5, msg=name
        )


def test_prompts_come_in_groups_and_again_for_each_micro_step() -> None:
    order = list(PromptStream(5, sets=3, prompts=2, group_size=3, repeats=2, seed=0))
    assert len(order) == len(PromptStream(5, 3, 2, 3, 2, 0)) == 3 * 2 * 3 * 2
    for start in range(0, 36, 12):
        first, second = order[start : start + 6], order[start + 6 : start + 12]
        assert first == second
        assert set(Counter(first).values()) == {3}
    assert order[0::3][0:2] + order[12::3][0:2] + order[24::3][0:1] == list(RowStream(5, 5, seed=0))


def test_rows_come_once_an_epoch_and_steps_are_full() -> None:
    rows = list(RowStream(7, 20, seed=3))
    assert sorted(rows[:7]) == sorted(rows[7:14]) == list(range(7))
    assert rows[:7] != rows[7:14]
    assert rows[14:] == list(RowStream(7, 100, seed=3))[14:20]
    assert [steps_of(*case) for case in ((10, 5, 1.0), (11, 5, 1.0), (10, 5, 1.2), (3, 5, 1.0), (1, 128, 0.1))] == [
        2, 3, 3, 1, 1,
    ]  # fmt: skip


def failing(name: str, share: float, tmp_path: Path, model: Path, **rewards: Any) -> tuple[int, Path]:
    config = config_of(
        model, tmp_path, RewardSpec(f"{HERE}:{name}"), RewardSpec(f"{HERE}:by_number"), training__steps=2
    )
    config = replace(config, loss=PolicyLoss(kl_limit=None))  # the learning rate is not the subject
    config = replace(config, rewards=replace(config.rewards, max_failed_share=share, **rewards))
    return one_line(lambda: grpo.train(config, 2)), tmp_path / "run"


def test_rewards_that_are_no_number_are_counted_and_survived(models_folder: Path, tmp_path: Path) -> None:
    code, run = failing("not_a_number", 1.0, tmp_path, models_folder / "qwen2")
    assert code == 0
    steps = records(run)
    assert 0 < steps[0]["reward_failures"] <= steps[1]["reward_failures"] < 16
    named = [record["message"] for record in records(run, "event") if record["kind"] == "reward"]
    assert len(named) == 1
    assert re.match(r"tests.*not_a_number failed, which counts as 0: returned nan", named[0])
    assert all(np.isfinite(step["loss"]) and np.isfinite(step["reward"]) for step in steps)


def test_a_reward_that_always_raises_stops_the_run_in_one_line(
    models_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = failing("raises", 0.5, tmp_path, models_folder / "qwen2")
    assert code == 1
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("error: reward raises failed on 8 of 8 answers of a step (KeyError: 'answer')")
    assert "max_failed_share" in line


def test_a_reward_that_hangs_costs_its_item(models_folder: Path, tmp_path: Path) -> None:
    code, run = failing("hangs", 1.0, tmp_path, models_folder / "qwen2", timeout_seconds=0.3)
    assert code == 0
    named = [record["message"] for record in records(run, "event") if record["kind"] == "reward"]
    assert all("took more than 0.3 seconds" in message for message in named)


def test_the_guard_stops_a_policy_that_runs_away(models_folder: Path, tmp_path: Path) -> None:
    gamed = RewardSpec(f"{HERE}:gamed")
    model = models_folder / "qwen2"
    wild: dict[str, Any] = {"training__steps": 12, "optimizer__lr": 3e-2, "optimizer__min_lr": 3e-2}
    config = config_of(model, tmp_path, gamed, **wild)
    config = replace(config, loss=PolicyLoss(kl_limit=None))
    assert grpo.train(config, 2) == 0
    divergences = [record["kl"] for record in records(tmp_path / "run")]
    assert divergences[0] == pytest.approx(0, abs=1e-6)
    limit = max(divergences) / 2
    assert limit > 0.01

    (tmp_path / "guarded").mkdir()
    guarded = replace(config_of(model, tmp_path / "guarded", gamed, **wild), loss=PolicyLoss(kl_limit=limit))
    assert grpo.train(guarded, 2) == 1
    run = tmp_path / "guarded" / "run"
    steps = records(run)
    assert len(steps) < 12
    assert [step["kl"] > limit for step in steps] == [False] * (len(steps) - 1) + [True]
    stop = [record["message"] for record in records(run, "event") if record["kind"] == "stop"]
    assert len(stop) == 1
    assert "loss.kl_limit" in stop[0]
    assert (run / f"checkpoint-{len(steps)}" / "model.safetensors").is_file()
    assert not (run / "final").exists()


def test_held_out_rewards_are_those_of_greedy_answers(models_folder: Path, tmp_path: Path) -> None:
    config = config_of(models_folder / "bielik", tmp_path, training__steps=1)
    config = replace(config, data=replace(config.data, valid=config.data.train, system="Licz."))
    assert grpo.train(config, 2) == 0
    (found,) = records(tmp_path / "run", "eval")
    encoder = load_encoder(config)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "final")
    values, lengths = [], []
    from tests.posttrain.bad_rewards import by_number

    for row in prompts(6):
        ids = encoder.encode([{"role": "system", "content": "Licz."}, *row["messages"]], None, True).ids.tolist()
        answer = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=12)[0, len(ids) :].tolist()
        lengths.append(len(answer))
        while answer and answer[-1] in (encoder.end_of_turn, encoder.tokenizer.pad_token_id):
            answer.pop()
        values.append(by_number(encoder.tokenizer.decode(answer), row))
    assert found["by_number"] == pytest.approx(np.mean(values), abs=1e-6)
    assert found["reward"] == found["by_number"]
    assert found["answer_tokens"] == pytest.approx(np.mean(lengths))


def test_names_of_rewards_are_distinct_in_the_log() -> None:
    specs = [RewardSpec("length"), RewardSpec("a.b:length"), RewardSpec("format")]
    no_worker: Any = None
    decode: Callable[[Any], str] = str
    assert RewardCalls(specs, no_worker, decode, list, 1.0).names == ["length_1", "length_2", "format"]
