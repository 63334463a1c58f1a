"""tools/replace_tokenizer.py from the shell: report, first loss, and errors in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.surgery.vocabularies import byte_level, qwen2, sentencepiece_like, texts

TOOL = Path(__file__).parents[2] / "tools" / "replace_tokenizer.py"


def call(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model, tokenizer and corpus.jsonl."""
    made, folder = texts(80), tmp_path_factory.mktemp("given")
    byte_level(folder / "model", made[:40], 600)
    qwen2(folder / "model", 620, tied=True)
    sentencepiece_like(folder / "tokenizer", made, 800)
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in made))
    return folder


def test_replace_and_evaluate(folder: Path, tmp_path: Path) -> None:
    given = ("--model", folder / "model", "--tokenizer", folder / "tokenizer", "--output", tmp_path / "new")
    corpus = ("--corpus", folder / "corpus.jsonl", "--min-count", 3, "--bucket", 1000, "--cache", tmp_path / "cache")
    done = call(*given, *corpus, "--evaluate", folder / "corpus.jsonl", "--documents", 3, "--compare", "mean")
    assert done.returncode == 0, done.stderr
    assert "copied" in done.stdout
    assert "parameters -> " in done.stdout
    assert "note: AutoTokenizer takes Qwen2Tokenizer" in done.stdout
    losses = json.loads((tmp_path / "new" / "first_loss.json").read_text())
    assert [loss["name"] for loss in losses] == ["source", "focus", "mean", "random"]
    for loss in losses:
        assert f"{loss['per_character']:.4f} nats per character" in done.stdout
    assert (tmp_path / "new" / "first_loss.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_help_has_examples() -> None:
    done = call("--help")
    assert done.returncode == 0
    assert "python tools/replace_tokenizer.py" in done.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--method": "focus"}, "method focus needs --corpus"),
        ({"--model": "missing"}, "missing/tokenizer.json not found"),
        ({"--tokenizer": "missing"}, "missing/tokenizer.json not found"),
        ({"--shard-size": "big"}, "'big' is no size"),
        ({"--corpus": "missing.jsonl", "--method": "focus"}, "missing.jsonl"),
    ],
)
def test_errors_are_one_line(change: dict[str, str], message: str, folder: Path, tmp_path: Path) -> None:
    options = {"--model": folder / "model", "--tokenizer": folder / "tokenizer", "--method": "mean"} | change
    done = call(*(part for pair in options.items() for part in pair), "--output", tmp_path / "new")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
