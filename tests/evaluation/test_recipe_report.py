"""The recipe's verdicts by hand, its page, and folders that are not whole."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from megatron_bielik.evaluation.recipe_checks import gains, signatures
from megatron_bielik.evaluation.recipe_page import render
from megatron_bielik.evaluation.recipe_run import read_run

ROOT = Path(__file__).parents[2]


def score(
    form: float, loss: float, accuracy: float, chosen: float, reward: float, pl: float = 1.0, en: float = 1.0
) -> Any:
    talks = {
        "a": {"rows": 3, "exact": 0, "form": form, "loss": loss},
        "b": {"rows": 1, "exact": 0, "form": 1.0, "loss": loss},
    }
    pairs = {"rows": 4, "accuracy": accuracy, "chosen": chosen, "rejected": -9}
    return {"texts": {"pl": pl, "en": en}, "conversations": talks, "pairs": pairs, "reward": reward}


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def log(path: Path, *records: dict[str, Any]) -> None:
    path.mkdir(parents=True, exist_ok=True)
    (path / "log.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))


def train(step: int, loss: float, **more: Any) -> dict[str, Any]:
    speed = {"tokens_per_second_per_gpu": 100.0 * step, "tokens": 10 * step, "time": 1000.0 + step}
    return {"type": "train", "step": step, "loss": loss, "lr": 0.1, "grad_norm": 1.0, **speed, **more}


def evaluated(step: int, loss: float, name: str = "pl") -> dict[str, Any]:
    return {"type": "eval", "step": step, "set": name, "loss": loss, "time": 1000.0 + step}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run with figures that can be worked out by hand."""
    names = ("base", "pretrained", "sft-1", "sft", "sft-merged", "dpo", "grpo-1", "grpo", "merged")
    params = {
        "scored": {name: {} for name in names}, "tokenizer": {"entries": 1000}, "evaluated": {"merged": "model"},
        "merges": {"sft-merged": ["sft-1", "sft"], "merged": ["grpo-1", "grpo"]},
    }  # fmt: skip
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    losses = {"source": 1.0, "focus": 2.0, "random": 2.5}
    write(
        tmp_path / "focus/first_loss.json", [{"name": name, "per_character": value} for name, value in losses.items()]
    )
    scores = {
        "base": {"texts": {"pl": 2.0, "en": 0.5}},
        "pretrained": score(0.0, 3.0, 0.5, -20, 0.0, pl=1.0, en=0.6),
        "sft-1": {
            part: one for part, one in score(0.6, 0.8, 0.7, -8, 0.2).items() if part in ("texts", "conversations")
        },
        "sft": score(0.8, 0.6, 0.7, -8, 0.2),
        "sft-merged": score(0.8, 0.68, 0.7, -8, 0.2),
        "dpo": score(0.8, 0.7, 0.9, -7.5, 0.2),
        "grpo-1": score(0.8, 0.7, 0.9, -7.5, 0.4),
        "grpo": score(0.8, 0.7, 0.9, -7.5, 0.5),
        "merged": score(0.8, 0.75, 0.9, -7.5, 0.44, pl=2.0, en=0.7),
    }
    for name, one in scores.items():
        write(tmp_path / "scores" / f"{name}.json", one)
    log(
        tmp_path / "stage1", evaluated(0, 6.0), train(1, 5.0), train(2, 4.0), evaluated(2, 4.5), evaluated(2, 4.0, "en")
    )
    spike = {"type": "event", "step": 2, "kind": "spike", "message": "x", "time": 1002.0}
    log(tmp_path / "stage2", evaluated(0, 4.5), train(1, 4.0), spike, evaluated(2, 4.6))
    start = {"type": "run", "step": 0, "config": {"loss": {"kl_limit": 0.5}}, "time": 1000.0}
    log(tmp_path / "grpo", start, train(1, 0.0, kl=0.1, reward=0.2), train(2, 0.0, kl=0.7, reward=0.3))
    return tmp_path


def test_gains_by_hand(folder: Path) -> None:
    found = {(one.stage, one.measure.split(",")[0].split(":")[0]): one for one in gains(read_run(folder))}
    figures = {key: (one.before, one.after, one.helped) for key, one in found.items()}
    merges = {one.measure.split()[-1]: one for one in gains(read_run(folder)) if one.stage == "merge"}
    assert figures["tokenizer", "first loss"] == (2.5, 2.0, True)
    assert figures["stage 1", "loss on Polish"] == (6.0, 4.5, True)
    assert figures["stage 2", "loss on Polish"] == (4.5, 4.6, False)
    assert figures["SFT", "answers in the form asked for"] == (0.25, pytest.approx(0.85), True)  # (3 x 0.8 + 1) / 4
    assert figures["DPO-P", "pairs whose chosen answer is the likelier one"] == (0.7, 0.9, True)
    assert figures["DPO-P", "log-probability of chosen answers"] == (-8, -7.5, True)
    assert figures["GRPO", "problems solved"] == (0.2, 0.5, True)
    assert (merges["sft-merged"].before, merges["sft-merged"].after) == (pytest.approx(0.7), pytest.approx(0.68))
    assert (merges["merged"].before, merges["merged"].after) == (pytest.approx(0.7), pytest.approx(0.75))
    assert [merges[name].helped for name in ("sft-merged", "merged")] == [True, False]


def test_signatures_by_hand(folder: Path) -> None:
    found = {one.name.split(":")[0].split(",")[0]: one for one in signatures(read_run(folder))}
    fine = {name: one.fine for name, one in found.items()}
    assert found["first loss after the new tokenizer"].value == pytest.approx(0.8)
    assert fine["first loss after the new tokenizer"]
    assert found["loss after depth up-scaling"].value == pytest.approx(6.0 / 6.907755)  # ln 1000
    assert found["English forgotten in pretraining"].value == pytest.approx(1.2)
    assert fine["English forgotten in pretraining"]
    assert found["Polish forgotten in post-training"].value == pytest.approx(2.0)
    assert not fine["Polish forgotten in post-training"]
    assert found["largest divergence in GRPO"].value == 0.7
    assert found["largest divergence in GRPO"].limit == 0.5
    assert not fine["largest divergence in GRPO"]
    assert found["loss spikes and skipped steps"].value == 1
    assert fine["chosen answers' log-probability after DPO-P"]


def test_a_figure_that_is_no_number_is_a_warning(folder: Path) -> None:
    log(folder / "grpo", train(1, 0.0, kl=float("nan"), reward=0.2))
    (divergence,) = (one for one in signatures(read_run(folder)) if "divergence" in one.name)
    assert not divergence.fine


class _Page(HTMLParser):
    """Collects what a page asks of the outside, and its tables' cells."""

    def __init__(self) -> None:
        super().__init__()
        self.outside: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href") and value and not value.startswith("#"):
                self.outside.append(value)


def test_the_page_needs_nothing_else(folder: Path) -> None:
    text = render(read_run(folder))
    page = _Page()
    page.feed(text)
    assert not page.outside
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert page.tags.count("svg") == 3
    assert 'name="viewport"' in text
    assert not re.search(r"url\((?!#)|@import", text)
    assert text.count("⚠ warning") == 3
    assert text.count("✗ worse") == 2
    assert render(read_run(folder)) == text


def test_names_from_a_run_are_escaped(folder: Path) -> None:
    rows = [
        {
            "tokenizer": "<script>x</script>",
            "text": "pl",
            "entries": 1,
            "tokens": 1,
            "characters_per_token": 1,
            "tokens_per_word": 1,
        }
    ]
    write(folder / "fertility.json", rows)
    assert "&lt;script&gt;" in render(read_run(folder))


def test_a_run_that_has_hardly_begun(folder: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    new.mkdir()
    (new / "params.yaml").write_bytes((folder / "params.yaml").read_bytes())
    assert list(gains(read_run(new))) == []
    assert "0 of 0" in render(read_run(new))


def test_folders_that_are_none(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"no params\.yaml"):
        read_run(tmp_path / "none")
    (folder / "fertility.json").write_text("[{")
    with pytest.raises(ValueError, match=r"fertility\.json is damaged"):
        read_run(folder)


def test_the_command(folder: Path, tmp_path: Path) -> None:
    line = [sys.executable, str(ROOT / "tools/recipe_report.py"), "--output", str(tmp_path / "r.html"), "--folder"]
    done = subprocess.run([*line, str(folder)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "WORSE   merge" in done.stdout
    assert "warning: largest divergence in GRPO" in done.stdout
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")
    refused = subprocess.run([*line, str(tmp_path / "none")], capture_output=True, text=True, timeout=60, check=False)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
