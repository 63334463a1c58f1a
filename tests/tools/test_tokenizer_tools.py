"""The tokenizer commands from the shell: train on weighted inputs, compare, help, and errors in one line."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_bielik.corpus.synthetic import write_corpus

TOOLS = Path(__file__).parents[2] / "tools"


def call(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOLS / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_train_and_compare(tmp_path: Path) -> None:
    write_corpus(tmp_path / "pl.jsonl", 200_000, 0)
    with gzip.open(tmp_path / "en.txt.gz", "wt", encoding="utf-8") as stream:
        stream.write("The quick brown fox jumps over the lazy dog.\n" * 300)
    inputs = [f"{tmp_path}/*.jsonl=0.95", f"{tmp_path}/en.txt.gz=0.05"]
    for name in ("a", "b"):
        done = call("train_tokenizer.py", "--input", *inputs, "--vocab-size", 800, "--max-megabytes", 0.1,
                    "--output", tmp_path / name)  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"{tmp_path / name}: 800 entries in ")
        assert done.stdout.count("\n") == 1
        assert "sample: 0.1 MB of the 0.2 MB read" in done.stderr
        assert "agree and are lossless" in done.stderr
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name

    done = call("compare_tokenizers.py", "--tokenizer", f"first={tmp_path / 'a'}", tmp_path / "b",
                "--text", f"pl={tmp_path / 'pl.jsonl'}", tmp_path / "en.txt.gz", "--rounds", 1,
                "--json", tmp_path / "c.json", "--chart", tmp_path / "c.png")  # fmt: skip
    assert done.returncode == 0, done.stderr
    records = json.loads((tmp_path / "c.json").read_text())
    names = [("pl", "first"), ("pl", "b"), ("en.txt.gz", "first"), ("en.txt.gz", "b")]
    assert [(record["text"], record["tokenizer"]) for record in records] == names
    assert f"{records[0]['tokens']:,}" in done.stdout
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["train_tokenizer.py", "compare_tokenizers.py"])
def test_help_has_examples(name: str) -> None:
    done = call(name, "--help")
    assert done.returncode == 0
    assert f"python tools/{name}" in done.stdout


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("train_tokenizer.py", ("--input", "missing.jsonl", "--output", "t")),
        ("train_tokenizer.py", ("--input", __file__, "--output", "t")),
        ("train_tokenizer.py", ("--input", "missing.jsonl", "--output", ".")),
        ("train_tokenizer.py", ("--input", "missing.jsonl", "--output", "t", "--vocab-size", "300")),
        ("compare_tokenizers.py", ("--tokenizer", "missing", "--text", "missing.txt")),
    ],
)
def test_errors_are_one_line(name: str, arguments: tuple[str, ...]) -> None:
    done = call(name, *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_training_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, megatron_bielik.tokenizer.train, megatron_bielik.tokenizer.compare;"
        "print([name for name in ('torch', 'transformers', 'megatron') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
