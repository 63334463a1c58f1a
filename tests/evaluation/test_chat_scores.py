"""Scores on one's own rows: against plain transformers one by one, batches of any width, both kinds of tokenizers, bad rows."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken

from megatron_bielik.evaluation.answers import ChatModel
from megatron_bielik.evaluation.chat_scores import HeldOut, ScoreError, form_scores, pair_scores, reward_score, score
from megatron_bielik.posttrain.chat import ChatError
from megatron_bielik.tokenizer.byte_level import train_byte_level, write_byte_level
from megatron_bielik.tokenizer.train import build_tokenizer
from tests.evaluation.conftest import save_llama

ROOT = Path(__file__).parents[2]
TEXTS = [f"Jakub ma {n} jabłek i {m} gruszek. Ile ma razem? Razem: {n + m}." for n in range(30) for m in range(10)]
TALKS: list[dict[str, Any]] = [
    {
        "kind": kind,
        "form": form,
        "messages": [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}],
    }
    for kind, form, ask, answer in (
        ("a", ".*", "Ile ma razem?", "Razem: 7."),
        ("a", "nigdy", "Jakub ma 3 jabłka i 4 gruszki. Ile ma razem, jeśli nic nie zgubił?", "7"),
        ("b", "(?s).*", "Ile?", "  Razem:\n7 jabłek i gruszek "),
    )
]
PAIRS = [
    {"prompt": "Ile ma razem?", "chosen": "Razem: 7.", "rejected": "Razem: 9 gruszek."},
    {
        "prompt": [{"role": "user", "content": "Ile?"}],
        "chosen": [{"role": "assistant", "content": "7"}],
        "rejected": "1",
    },
]


@pytest.fixture(scope="module", params=["byte-level", "sentencepiece"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat") / request.param
    if request.param == "byte-level":
        folder.mkdir()
        tokenizer = train_byte_level(TEXTS, 300)
        tokenizer.add_special_tokens([AddedToken(name, special=True) for name in ("<|im_start|>", "<|im_end|>")])
        write_byte_level(tokenizer, folder)
        entries = tokenizer.get_vocab_size()
    else:
        entries = build_tokenizer([text.encode() for text in TEXTS], 400, folder).entries
    save_llama(folder, entries, seed=1, eos_token_id=2, pad_token_id=2)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> ChatModel:
    return ChatModel(folder)


def loss_alone(model: ChatModel, messages: list[dict[str, str]]) -> tuple[float, int]:
    """One conversation by itself, its last answer and end-of-turn token."""
    whole = model.encoder.encode(messages)
    start = len(model.encoder.encode(messages[:-1], add_generation_prompt=True).ids)
    places = [place for place in range(start, len(whole.ids)) if whole.trained[place]]
    logits = model.network(torch.tensor([whole.ids.tolist()])).logits[0].double().log_softmax(-1)
    return -sum(float(logits[place - 1, int(whole.ids[place])]) for place in places), len(places)


def test_losses_are_those_of_single_conversations(model: ChatModel) -> None:
    found = model.answer_losses(
        [row["messages"][:-1] for row in TALKS], [row["messages"][-1]["content"] for row in TALKS]
    )
    for (loss, tokens), row in zip(found, TALKS, strict=True):
        alone, count = loss_alone(model, row["messages"])
        assert tokens == count
        assert loss == pytest.approx(alone, rel=1e-5)


def test_an_earlier_answer_belongs_to_the_prompt(model: ChatModel) -> None:
    messages = [
        *TALKS[0]["messages"],
        {"role": "user", "content": "A ile gruszek?"},
        {"role": "assistant", "content": "4"},
    ]
    ((loss, _),) = model.answer_losses([messages[:-1]], ["4"])
    assert loss == pytest.approx(loss_alone(model, messages)[0], rel=1e-5)
    assert loss < loss_alone(model, messages)[0] + loss_alone(model, TALKS[0]["messages"])[0]


def test_answers_do_not_depend_on_their_batch(model: ChatModel) -> None:
    prompts = [row["messages"][:-1] for row in TALKS]
    assert model.answer(prompts, 12) == [model.answer([one], 12)[0] for one in prompts]
    ids = torch.tensor([model.encoder.encode(prompts[1], add_generation_prompt=True).ids.tolist()])
    for _ in range(12):
        ids = torch.cat([ids, model.network(ids).logits[:, -1:].argmax(-1)], 1)
        if int(ids[0, -1]) == model.encoder.end_of_turn:
            break
    made = ids[0, len(model.encoder.encode(prompts[1], add_generation_prompt=True).ids) :]
    assert model.answer([prompts[1]], 12)[0] == model.encoder.tokenizer.decode(made, skip_special_tokens=True)


def test_scores_by_kind(model: ChatModel) -> None:
    scores = form_scores(model, TALKS)
    assert (scores["a"].rows, scores["a"].form, scores["b"].form) == (2, 0.5, 1.0)
    (first, one), (second, two) = (loss_alone(model, row["messages"]) for row in TALKS[:2])
    assert scores["a"].loss == pytest.approx((first + second) / (one + two), rel=1e-5)


def test_pairs_and_rewards(model: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    found = pair_scores(model, PAIRS)
    ask = [[{"role": "user", "content": "Ile ma razem?"}], [{"role": "user", "content": "Ile?"}]]
    answers = (("Razem: 7.", "7"), ("Razem: 9 gruszek.", "1"))
    chosen, rejected = (
        [
            -loss_alone(model, [*one, {"role": "assistant", "content": text}])[0]
            for one, text in zip(ask, texts, strict=True)
        ]
        for texts in answers
    )
    assert found.chosen == pytest.approx(sum(chosen) / 2, rel=1e-5)
    assert found.rejected == pytest.approx(sum(rejected) / 2, rel=1e-5)
    assert found.accuracy == sum(a > b for a, b in zip(chosen, rejected, strict=True)) / 2
    monkeypatch.setattr(ChatModel, "answer", lambda *_: [r"Razem \boxed{7}", "nie wiem"])
    problems = [{"messages": ask[0], "answer": "7"}, {"messages": ask[1], "answer": "7"}]
    assert reward_score(model, problems, "math_answer", 4) == 0.5


def test_text_is_scored_without_a_chat_template(tiny_model: Path, tmp_path: Path) -> None:
    rows = [{"text": "Wisła wylała."}, {"text": "Śnieg padał całą noc, a rano było biało."}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = score(tiny_model, HeldOut({"pl": tmp_path / "t.jsonl"}))
    assert 0 < found["texts"]["pl"] < math.log(600) * 2
    (tmp_path / "c.jsonl").write_text(json.dumps(TALKS[0]) + "\n")
    with pytest.raises(ChatError, match="im_start"):
        score(tiny_model, HeldOut({}, conversations=tmp_path / "c.jsonl"))


def test_bad_rows_are_named(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "c.jsonl").write_text(json.dumps(TALKS[0]) + '\n{"kind": "a"}\n')
    with pytest.raises(ScoreError, match=r"--conversations: .*2.* has no 'messages'"):
        score(tiny_model, HeldOut({}, conversations=tmp_path / "c.jsonl"))
    (tmp_path / "e.jsonl").write_text("")
    with pytest.raises(ScoreError, match=r"--pairs: .*e\.jsonl has no rows"):
        score(tiny_model, HeldOut({}, pairs=tmp_path / "e.jsonl"))


def test_the_command(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TALKS))
    line = [
        sys.executable,
        str(ROOT / "tools/score_model.py"),
        "--model",
        str(folder),
        "--output",
        str(tmp_path / "new/s.json"),
    ]
    done = subprocess.run(
        [*line, "--conversations", str(tmp_path / "c.jsonl")], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "new/s.json").read_text())["conversations"]["b"]["form"] == 1.0
    nothing = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert nothing.returncode == 2
    assert "nothing to score on" in nothing.stderr
