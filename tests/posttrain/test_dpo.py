"""DPO-Positive against its formula in float64, TRL's own loss at lambda 0, and the cache of the reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from trl import DPOConfig as Arguments
from trl import DPOTrainer

from megatron_bielik.posttrain import dpo
from megatron_bielik.posttrain.chat import fingerprint
from megatron_bielik.posttrain.config import DPOConfig, DPOData, PreferenceLoss
from megatron_bielik.posttrain.dpo_data import PairCollator, encode_pairs
from megatron_bielik.posttrain.dpo_loss import Pairs, pair_metrics, preference_losses
from megatron_bielik.posttrain.dpo_trainer import BielikDPOTrainer
from megatron_bielik.posttrain.run import load_encoder, load_model, make_arguments
from megatron_bielik.posttrain.sft_data import IGNORED
from tests.conftest import records
from tests.posttrain.conftest import pairs, small, write_rows

PAIRS = 6


def numpy_loss(chosen: Any, rejected: Any, rho_c: Any, rho_r: Any, beta: float, lam: float) -> float:
    """formulas.md, in numpy."""
    z = beta * ((chosen - rho_c) - (rejected - rho_r) - lam * np.maximum(0, rho_c - chosen))
    return float(np.mean(np.log1p(np.exp(-z))))


@pytest.mark.parametrize("lam", [0.0, 2.5, 50.0])
def test_the_loss_is_the_formula(lam: float) -> None:
    draw = np.random.default_rng(0)
    values = [draw.normal(-30, 10, 200) for _ in range(4)]
    made = Pairs(*(torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in values))
    loss = preference_losses(made, 0.1, lam).mean()
    loss.backward()
    assert float(loss) == pytest.approx(numpy_loss(*values, beta=0.1, lam=lam), abs=1e-12)
    for index, tensor in enumerate((made.chosen, made.rejected)):  # gradients by central differences
        for place in (0, 17, 199):
            ends = []
            for step in (1e-5, -1e-5):
                moved = [value.copy() for value in values]
                moved[index][place] += step
                ends.append(numpy_loss(*moved, beta=0.1, lam=lam))
            assert tensor.grad is not None
            assert float(tensor.grad[place]) == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-8)


def test_the_penalty_is_for_chosen_answers_that_fell() -> None:
    zero = torch.zeros(1)
    rose = Pairs(zero + 1, zero, zero, zero)
    fell = Pairs(zero - 1, zero - 2, zero, zero)  # the margin is the same
    assert preference_losses(rose, 0.1, 5.0) == preference_losses(rose, 0.1, 0.0)
    assert preference_losses(fell, 0.1, 0.0) == preference_losses(rose, 0.1, 0.0)
    assert preference_losses(fell, 0.1, 5.0) > preference_losses(fell, 0.1, 0.0)
    metrics = pair_metrics(fell, 0.1)
    assert metrics["chosen_fell"].item() == 1
    assert metrics["accuracy"].item() == 1
    assert metrics["margin"].item() == pytest.approx(0.1)


@pytest.fixture(scope="module")
def make_trainer(
    models_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[BielikDPOTrainer, Dataset]]:
    """A trainer whose policy is not the reference any more, and its encoded pairs."""

    def make(kind: str, **loss: Any) -> tuple[BielikDPOTrainer, Dataset]:
        folder = tmp_path_factory.mktemp("dpo")
        data = DPOData([str(write_rows(folder / "pairs.jsonl", pairs(PAIRS)))], sequence_length=200)
        config = small(DPOConfig(data=data, loss=PreferenceLoss(**loss)), models_folder / kind, folder / "run")
        encoder = load_encoder(config)
        made = encode_pairs(folder / "data", "train", data.train, data, encoder, fingerprint(encoder.tokenizer))
        rows = Dataset.from_file(str(made.path)).with_format("numpy")
        arguments = make_arguments(config, 1, Arguments, max_length=None, precompute_ref_log_probs=True)
        trainer = BielikDPOTrainer(
            config,
            {"train": made.path},
            model=load_model(config),
            args=arguments,
            train_dataset=rows,
            processing_class=encoder.tokenizer,
            data_collator=PairCollator(encoder.tokenizer.pad_token_id),
        )
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in trainer.model.parameters():
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
        return trainer, rows

    return make


def answers(model: Any, row: Any, side: str, mean: bool) -> torch.Tensor:
    """Log-probability of one answer by transformers' own forward, one sequence at a time, without padding."""
    ids = torch.tensor(row[f"{side}_ids"]).long()
    log_probs = model(ids[None]).logits[0, :-1].log_softmax(-1)
    found = log_probs.gather(1, ids[1:, None])[:, 0][torch.tensor(row[f"{side}_trained"])[1:]]
    return found.mean() if mean else found.sum()


@pytest.mark.parametrize("kind", ["qwen2", "bielik"])
@pytest.mark.parametrize("loss", [{}, {"positive": 0.0}, {"length_normalized": True, "beta": 2.0}, {"positive": 10.0}])
def test_loss_and_gradients_agree_with_the_formula_in_float64(
    make_trainer: Callable[..., Any], models_folder: Path, kind: str, loss: dict[str, Any]
) -> None:
    trainer, rows = make_trainer(kind, **loss)
    options = trainer.config.loss
    batch = trainer.data_collator([trainer.train_dataset[number] for number in range(PAIRS)])
    mine = trainer.compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor(PAIRS))
    mine.backward()

    reference = load_model(trainer.config).double()
    policy = load_model(trainer.config).double()
    policy.load_state_dict({name: value.double() for name, value in trainer.model.state_dict().items()})
    losses = []
    for row in rows:
        values = [answers(policy, row, side, options.length_normalized) for side in ("chosen", "rejected")]
        with torch.no_grad():
            values += [answers(reference, row, side, options.length_normalized) for side in ("chosen", "rejected")]
        chosen, rejected, rho_c, rho_r = values
        penalty = options.positive * torch.clamp(rho_c - chosen, min=0)
        z = options.beta * ((chosen - rho_c) - (rejected - rho_r) - penalty)
        losses.append(torch.log1p(torch.exp(-z)))
    expected = torch.stack(losses).mean()
    expected.backward()
    assert float(mine) == pytest.approx(float(expected), abs=1e-6)
    gradients = dict(policy.named_parameters())
    largest = max(float(parameter.grad.abs().max()) for parameter in gradients.values())
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(
            parameter.grad.double() / largest, gradients[name].grad / largest, atol=1e-6, rtol=1e-5, msg=name
        )


def test_lambda_zero_is_the_dpo_loss_of_trl(make_trainer: Callable[..., Any]) -> None:
    trainer, rows = make_trainer("bielik", positive=0.0)
    batch = trainer.data_collator([trainer.train_dataset[number] for number in range(PAIRS)])
    mine = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=torch.tensor(PAIRS))
    reference_chosen, reference_rejected = batch["reference"].chunk(2)
    theirs = DPOTrainer._compute_loss(
        trainer,
        trainer.model,
        {
            "input_ids": batch["input_ids"],
            "attention_mask": batch["attention_mask"],
            "completion_mask": (batch["labels"] != IGNORED).long(),
            "ref_chosen_logps": reference_chosen,
            "ref_rejected_logps": reference_rejected,
        },
        return_outputs=False,
    )
    assert float(mine) == pytest.approx(float(theirs), abs=1e-6)
    # and of its tokens: what TRL makes of the same messages, but for the line end after the end-of-turn token
    messages = [{**row, **{side: [_said(row[side])] for side in ("chosen", "rejected")}} for row in pairs(PAIRS)]
    arguments = replace(trainer.args, max_length=None)
    encoded = DPOTrainer._prepare_dataset(
        trainer, Dataset.from_list(messages), trainer.processing_class, arguments, "train"
    )
    for row, other in zip(rows, encoded, strict=True):
        for side in ("chosen", "rejected"):
            theirs_ids = other["prompt_ids"] + other[f"{side}_ids"]
            size = len(row[f"{side}_ids"])
            assert row[f"{side}_ids"].tolist() == theirs_ids[:size]
            assert row[f"{side}_trained"].sum() == size - len(other["prompt_ids"])


def _said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def test_only_the_answer_is_trained_in_long_conversations(models_folder: Path, tmp_path: Path) -> None:
    call = {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}]}
    prompt = [{"role": "user", "content": "a"}, _said("wcześniej"), {"role": "user", "content": "b"}]
    rows = [
        {"prompt": prompt, "chosen": [_said("tak")], "rejected": [_said("nie wiem")]},
        {"prompt": prompt, "chosen": [call, {"role": "tool", "content": "12"}, _said("12")], "rejected": "13"},
        {"prompt": "a", "chosen": "x", "rejected": "x"},
        {"prompt": "a", "chosen": "x " * 200, "rejected": "x"},
        {"prompt": [_said("a")], "chosen": "x", "rejected": "y"},
        {"prompt": "a", "chosen": None, "rejected": "y"},
        {"prompt": "a", "chosen": " ", "rejected": "y"},
        "{broken",
    ]
    data = DPOData([str(write_rows(tmp_path / "p.jsonl", rows))], sequence_length=200)
    config = small(DPOConfig(data=data), models_folder / "qwen2", tmp_path / "run")
    encoder = load_encoder(config)
    made = encode_pairs(tmp_path / "data", "train", data.train, data, encoder, "x")
    found = Dataset.from_file(str(made.path))
    decode = encoder.tokenizer.decode
    trained = [
        decode([token for token, kept in zip(row["chosen_ids"], row["chosen_trained"], strict=True) if kept])
        for row in found
    ]
    called = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call><|im_end|>'
    assert trained == ["tak<|im_end|>", f"{called}12<|im_end|>"]
    assert made.report.dropped == {
        "equal answers": 1, "too long": 1, "bad roles": 1, "no answer": 1, "empty answer": 1, "not JSON": 1,
    }  # fmt: skip
    assert made.report.rows == 8


def test_a_run_computes_the_reference_once(
    models_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, valid = write_rows(tmp_path / "t.jsonl", pairs(20)), write_rows(tmp_path / "v.jsonl", pairs(7, seed=1))
    data = DPOData([str(train)], [str(valid)], sequence_length=200)
    config = small(
        DPOConfig(data=data), models_folder / "qwen2", tmp_path / "run", optimizer__lr=1e-3, checkpoint__save_interval=2
    )
    assert dpo.train(config, accumulation=2) == 0
    steps = records(tmp_path / "run")
    assert steps[0]["loss"] == pytest.approx(np.log(2), abs=1e-5)  # the policy is the reference
    assert steps[0]["margin"] == pytest.approx(0, abs=1e-4)
    assert steps[-1]["margin"] > 0
    (evaluation,) = records(tmp_path / "run", "eval")
    assert set(evaluation) >= {"loss", "chosen_log_ratio", "margin", "accuracy", "chosen_fell"}
    assert len(list((tmp_path / "run" / "data").glob("reference-*.npy"))) == 2

    def never(*_: Any) -> Any:
        raise AssertionError("the reference was computed again")

    monkeypatch.setattr(BielikDPOTrainer, "_reference_sums", never)
    for name in ("checkpoint-4", "final"):
        for path in sorted((tmp_path / "run" / name).rglob("*"), reverse=True):
            path.unlink()
        (tmp_path / "run" / name).rmdir()
    assert dpo.train(config, accumulation=2) == 0
    for mine, before in zip(records(tmp_path / "run"), steps, strict=True):
        assert mine["loss"] == before["loss"]
