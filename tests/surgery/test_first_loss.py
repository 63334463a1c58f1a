"""The first loss against transformers' own; a tokenizer that is replaced by itself changes nothing."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from megatron_bielik.surgery.first_loss import CHARACTERS, Loss, draw, first_losses
from megatron_bielik.surgery.methods import Initializer, Materials
from megatron_bielik.surgery.replace_tokenizer import replace_tokenizer
from megatron_bielik.surgery.safetensors_files import ConversionError
from megatron_bielik.tokenizer.vocabulary import read_vocabulary
from tests.surgery.vocabularies import byte_level, qwen2, sentencepiece_like, texts


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = byte_level(tmp_path_factory.mktemp("model") / "old", texts(40), 600)
    qwen2(folder, len(read_vocabulary(folder)), tied=True)
    return folder


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sentencepiece_like(tmp_path_factory.mktemp("tokenizer"), texts(60), 700)


def loss_by_transformers(folder: Path, held_out: list[str], begin: str) -> float:
    """Nats of all tokens, each text by itself behind the token that begins documents."""
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    nats = 0.0
    for text in held_out:
        ids = torch.tensor(
            [[tokenizer.convert_tokens_to_ids(begin), *tokenizer(text, add_special_tokens=False).input_ids]]
        )
        with torch.no_grad():
            nats += float(network(input_ids=ids, labels=ids).loss) * (ids.size(1) - 1)
    return nats


def test_agrees_with_transformers(model: Path, target: Path, tmp_path: Path) -> None:
    """Of the source, and of a written result loaded again."""
    held_out = texts(6, seed=11)
    initializer = Initializer(Materials(model, target, tmp_path))
    source, fvt, drawn = first_losses(initializer, model, ["fvt", "random"], ["", *held_out], limit=5)
    used = [text[:CHARACTERS] for text in held_out[:5]]
    assert [loss.name for loss in (source, fvt, drawn)] == ["source", "fvt", "random"]
    assert source.characters == fvt.characters == sum(map(len, used))
    assert math.isclose(source.nats, loss_by_transformers(model, used, "<|endoftext|>"), rel_tol=1e-5)
    replace_tokenizer(initializer, model, "fvt", tmp_path / "new")
    assert math.isclose(fvt.nats, loss_by_transformers(tmp_path / "new", used, "<s>"), rel_tol=1e-5)
    assert fvt.per_token == fvt.nats / fvt.tokens != drawn.per_token


def test_itself_for_itself(model: Path, tmp_path: Path) -> None:
    initializer = Initializer(Materials(model, model, tmp_path))
    source, again = first_losses(initializer, model, ["fvt"], texts(3, seed=12))
    assert (source.nats, source.tokens) == (again.nats, again.tokens)
    replace_tokenizer(initializer, model, "fvt", tmp_path / "new", keep_tied=True)
    before, after = (AutoModelForCausalLM.from_pretrained(folder) for folder in (model, tmp_path / "new"))
    ids = torch.arange(40)[None]
    assert torch.equal(before(input_ids=ids).logits, after(input_ids=ids).logits)


@pytest.mark.parametrize("held_out", [[], [""]])
def test_no_text(held_out: list[str], model: Path, target: Path, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="is empty"):
        first_losses(Initializer(Materials(model, target, tmp_path)), model, ["mean"], held_out)


def test_missing_files_are_told_before_the_model_is_loaded(model: Path, target: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    initializer = Initializer(Materials(folder, target, tmp_path))
    with pytest.raises(ConversionError, match="method focus needs"):
        first_losses(initializer, folder, ["mean", "focus"], texts(1))


def test_chart(tmp_path: Path) -> None:
    draw([Loss("source", 10, 5, 20), Loss("focus", 12, 4, 20)], tmp_path / "chart.png", "First loss")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
