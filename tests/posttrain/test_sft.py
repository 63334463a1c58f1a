"""SFT: packing changes nothing, the adaptive rate is its formula, weights weigh, the result is a model that chats."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from megatron_bielik.posttrain import sft
from megatron_bielik.posttrain.chat import fingerprint
from megatron_bielik.posttrain.config import SFTConfig, SFTData
from megatron_bielik.posttrain.run import load_encoder, load_model
from megatron_bielik.posttrain.sft_data import IGNORED, Collator, Packed, encode_set, pack_set
from megatron_bielik.posttrain.sft_trainer import adapted
from tests.conftest import records
from tests.posttrain.conftest import chats, small, write_rows


def prepared(folder: Path, model: Path, packing: bool, count: int = 24, length: int = 200) -> tuple[SFTConfig, Packed]:
    path = write_rows(folder / "chats.jsonl", chats(count))
    data = SFTData([str(path)], sequence_length=length, packing=packing, sample_weights=True)
    config = small(SFTConfig(data=data), model, folder / "run")
    encoder = load_encoder(config)
    made = encode_set(folder / "data", "train", data.train, data, encoder, fingerprint(encoder.tokenizer))
    return config, pack_set(made, data)


def loss_and_gradients(config: SFTConfig, rows: list[Any]) -> tuple[float, dict[str, torch.Tensor]]:
    """Weighted mean loss over all rows in one batch, by transformers' own forward in float32."""
    model = load_model(config)
    batch = Collator(0)(rows)
    weights, labels = batch.pop("weights")[:, 1:], batch.pop("labels")[:, 1:]
    logits = model(**batch, use_cache=False).logits[:, :-1]  # with a cache transformers lets packed rows see each other
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
    loss = (losses * weights).sum() / weights.sum()
    loss.backward()
    return float(loss), {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("kind", ["qwen2", "bielik"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_and_unpacked_rows_give_the_same_loss_and_gradients(
    models_folder: Path, tmp_path: Path, kind: str, attention: str
) -> None:
    found = []
    for packing in (True, False):
        config, packed = prepared(tmp_path, models_folder / kind, packing)
        config = small(config, models_folder / kind, tmp_path / "run", model__attention=attention)
        assert len(packed.rows) == 24 if not packing else len(packed.rows) < 12
        found.append(loss_and_gradients(config, [packed.rows[number] for number in range(len(packed.rows))]))
    (loss, gradients), (other, others) = found
    assert loss == pytest.approx(other, abs=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, others[name], atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize("flat", [False, True])
def test_editing_one_conversation_leaves_the_others_logits(models_folder: Path, tmp_path: Path, flat: bool) -> None:
    config, packed = prepared(tmp_path, models_folder / "qwen2", True)
    model, row = load_model(config).eval(), packed.rows[0]
    assert len(row["conversations"]) > 2
    logits, edited = [], 1
    for _ in range(2):
        batch = Collator(0, flat)([row])
        inputs = {name: batch[name] for name in ("input_ids", "position_ids")}
        with torch.no_grad():
            logits.append(model(**inputs, use_cache=False).logits[0])
        ids = row["conversations"][edited]["input_ids"].copy()
        ids[1:] = (ids[1:] + 7) % 400
        row["conversations"][edited]["input_ids"] = ids
    lengths = [len(one["input_ids"]) for one in row["conversations"]]
    start, end = sum(lengths[:edited]), sum(lengths[: edited + 1])
    before, after = logits
    assert not torch.equal(before[start:end], after[start:end])
    assert torch.equal(before[:start], after[:start])
    assert torch.equal(before[end : sum(lengths)], after[end : sum(lengths)])


def test_nothing_that_fits_is_cut_and_rows_are_full(models_folder: Path, tmp_path: Path) -> None:
    _, packed = prepared(tmp_path, models_folder / "qwen2", True, count=100)
    rows = [packed.rows[number]["conversations"] for number in range(len(packed.rows))]
    assert sum(map(len, rows)) == 100
    sizes = [sum(len(one["input_ids"]) for one in row) for row in rows]
    assert max(sizes) <= 200
    assert sum(sizes) == packed.tokens
    assert packed.efficiency == pytest.approx(sum(sizes) / (200 * len(rows)))
    assert packed.efficiency > 0.85


def test_collator_restarts_positions_and_bounds_sequences() -> None:
    one = {"input_ids": np.array([5, 6, 7]), "is_trained": np.array([False, True, False]), "weight": 0.5}
    two = {"input_ids": np.array([8, 9]), "is_trained": np.array([False, True]), "weight": 1.0}
    batch = Collator(0)([{"conversations": [one, two]}, {"conversations": [two]}])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9], [8, 9, 0, 0, 0]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1], [0, 1, 0, 1, 2]]
    assert batch["labels"].tolist() == [[-100, 6, -100, -100, 9], [-100, 9, -100, -100, -100]]
    assert batch["weights"].tolist() == [[0, 0.5, 0, 0, 1], [0, 1, 0, 0, 0]]
    flat = Collator(0, flat=True)([{"conversations": [one, two]}, {"conversations": [two]}])
    assert flat["input_ids"].tolist() == [[5, 6, 7, 8, 9, 8, 9]]
    assert flat["cu_seq_lens_q"].tolist() == [0, 3, 5, 7]
    assert flat["max_length_q"] == 3


@pytest.fixture(scope="module")
def finished(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[SFTConfig, Path]:
    """A run of six steps with accumulation and the adaptive rate."""
    folder = tmp_path_factory.mktemp("sft")
    train = write_rows(folder / "train.jsonl", chats(60))
    valid = write_rows(folder / "valid.jsonl", chats(7, seed=1))
    data = SFTData([str(train)], [str(valid)], sequence_length=160, sample_weights=True)
    config = small(
        SFTConfig(data=data), models_folder / "bielik", folder / "run", training__steps=6, training__eval_at_start=True
    )
    assert sft.train(config, accumulation=2) == 0
    return config, folder / "run"


def test_the_logged_rate_is_the_formula_on_every_step(finished: tuple[SFTConfig, Path]) -> None:
    config, run = finished
    steps = records(run)
    assert len(steps) == 6
    for record in steps:
        progress = (record["step"] - 1) / 5
        cosine = 1e-3 + (1e-2 - 1e-3) * 0.5 * (1 + math.cos(math.pi * progress))
        scheduled = 1e-2 * record["step"] if record["step"] <= 1 else cosine
        assert record["lr_scheduled"] == pytest.approx(scheduled, rel=1e-12)
        full = config.data.sequence_length * config.training.global_batch_size
        assert record["lr"] == pytest.approx(scheduled * math.sqrt(record["label_tokens"] / full), rel=1e-12)
    assert adapted(2e-5, 262_144, 1_048_576) == 1e-5


def test_label_tokens_are_those_of_the_steps_rows(finished: tuple[SFTConfig, Path]) -> None:
    """Counted again from the prepared set and the order of rows, without the trainer."""
    from megatron_bielik.posttrain.order import RowStream

    config, run = finished
    encoder = load_encoder(config)
    made = encode_set(run / "data", "train", config.data.train, config.data, encoder, fingerprint(encoder.tokenizer))
    packed = pack_set(made, config.data)
    trained = [
        sum(int(one["is_trained"].sum()) for one in packed.rows[number]["conversations"])
        for number in range(len(packed.rows))
    ]
    order = list(RowStream(len(trained), 24, seed=42))
    expected = [sum(trained[number] for number in order[4 * step : 4 * step + 4]) for step in range(6)]
    assert [record["label_tokens"] for record in records(run)] == expected


def test_the_first_loss_is_the_weighted_mean(finished: tuple[SFTConfig, Path]) -> None:
    from megatron_bielik.posttrain.order import RowStream

    config, run = finished
    encoder = load_encoder(config)
    made = encode_set(run / "data", "train", config.data.train, config.data, encoder, fingerprint(encoder.tokenizer))
    packed = pack_set(made, config.data)
    numbers = list(RowStream(len(packed.rows), 24, seed=42))[:4]
    loss, gradients = loss_and_gradients(config, [packed.rows[number] for number in numbers])
    first = records(run)[0]
    assert first["loss"] == pytest.approx(loss, abs=1e-5)
    norm = math.sqrt(sum(float((gradient.double() ** 2).sum()) for gradient in gradients.values()))
    assert first["grad_norm"] == pytest.approx(norm, rel=1e-4)


def test_it_learns_and_evaluates(finished: tuple[SFTConfig, Path]) -> None:
    _, run = finished
    losses = [record["loss"] for record in records(run)]
    assert losses[-1] < losses[0]
    before, evaluation = records(run, "eval")
    assert before["step"] == 0
    assert before["loss"] > evaluation["loss"]
    assert evaluation["perplexity"] == pytest.approx(math.exp(evaluation["loss"]))
    assert evaluation["step"] == 6


def test_the_result_is_a_hugging_face_folder_that_stops_at_the_end_of_a_turn(finished: tuple[SFTConfig, Path]) -> None:
    config, run = finished
    final = run / "final"
    model = AutoModelForCausalLM.from_pretrained(final)
    source = AutoModelForCausalLM.from_pretrained(config.model.path)
    assert {n: p.dtype for n, p in model.named_parameters()} == {n: p.dtype for n, p in source.named_parameters()}
    template = (final / "chat_template.jinja").read_text()
    assert "generation %}" not in template
    encoder = load_encoder(config)
    end = encoder.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert json.loads((final / "generation_config.json").read_text())["eos_token_id"] == end
    assert json.loads((final / "tokenizer_config.json").read_text())["eos_token"] == "<|im_end|>"
    assert not list(run.glob(".final*"))
    assert (final / "tokenizer.json").read_bytes() == (Path(config.model.path) / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("kind", ["bielik", "qwen2"])
def test_f2_f3_the_tokenizer_goes_through_in_all_its_files(kind: str, models_folder: Path, tmp_path: Path) -> None:
    """tokenizer.model is in every checkpoint as in the result; only the package's own kind is described to llama.cpp."""
    train = write_rows(tmp_path / "train.jsonl", chats(20))
    config = SFTConfig(data=SFTData([str(train)], sequence_length=160))
    source, run = models_folder / kind, tmp_path / "run"
    assert sft.train(small(config, source, run, training__steps=2, checkpoint__save_interval=1), 2) == 0
    for folder in (run / "checkpoint-1", run / "checkpoint-2", run / "final"):
        described = json.loads((folder / "tokenizer_config.json").read_text())
        before = json.loads((source / "tokenizer_config.json").read_text())
        assert described["eos_token"] == "<|im_end|>"
        for name in ("add_prefix_space", "add_bos_token"):
            assert described.get(name) == (False if kind == "bielik" else before.get(name))
        for path in [*source.glob("tokenizer.*")]:
            assert (folder / path.name).read_bytes() == path.read_bytes()
        assert (folder / "tokenizer.model").is_file() == (kind == "bielik")
        assert (folder / "chat_template.jinja").read_bytes() == (run / "final" / "chat_template.jinja").read_bytes()
        config_json = json.loads((folder / "config.json").read_text())
        assert config_json["rope_theta"] == config_json["rope_parameters"]["rope_theta"] == 12_345.0
        assert not list(folder.glob(".unfinished"))


def test_kernels_give_the_same_losses(models_folder: Path, tmp_path: Path, finished: tuple[SFTConfig, Path]) -> None:
    config, run = finished
    names = ["norm", "swiglu", "rope", "cross_entropy"]
    config = small(config, Path(config.model.path), tmp_path, training__steps=6, model__kernels=names)
    assert sft.train(config, accumulation=2) == 0
    for mine, theirs in zip(records(tmp_path), records(run), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-4)


def test_a_finished_run_is_left_alone(finished: tuple[SFTConfig, Path], capfd: pytest.CaptureFixture[str]) -> None:
    config, run = finished
    before = (run / "log.jsonl").read_bytes()
    assert sft.train(config, accumulation=2) == 0
    assert "finished already" in capfd.readouterr().out
    assert (run / "log.jsonl").read_bytes() == before


def test_a_batch_that_is_not_finite_is_skipped_and_too_many_stop(models_folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "model"
    model = AutoModelForCausalLM.from_pretrained(models_folder / "bielik")
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    model.save_pretrained(broken)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (broken / name).write_bytes((models_folder / "bielik" / name).read_bytes())
    train = write_rows(tmp_path / "train.jsonl", chats(20))
    config = small(SFTConfig(data=SFTData([str(train)], sequence_length=160)), broken, tmp_path / "run")
    config = small(config, broken, tmp_path / "run", training__max_skipped_steps=2, checkpoint__save_interval=1)
    assert sft.train(config, accumulation=2) == 1
    kinds = [record["kind"] for record in records(tmp_path / "run", "event")]
    assert kinds.count("skip") == 2
    assert kinds[-1] == "stop"
    assert [record["loss"] for record in records(tmp_path / "run")] == [None, None]
    assert not list((tmp_path / "run").glob("checkpoint-*"))
