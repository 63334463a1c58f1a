"""The data commands from the shell: corpus, tokenizer, shard, merge; help with examples; errors in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from megatron_bielik.data.shards import ShardReader

TOOLS = Path(__file__).parents[2] / "tools"


def call(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOLS / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_from_nothing_to_a_merged_shard(tmp_path: Path) -> None:
    steps = [
        ("generate_corpus.py", "--output", tmp_path / "c.jsonl.zst", "--megabytes", 0.2, "--seed", 1),
        ("train_tokenizer.py", "--input", tmp_path / "c.jsonl.zst", "--vocab-size", 600, "--output", tmp_path / "tok"),
        ("preprocess_data.py", "--input", tmp_path / "*.zst", "--tokenizer", tmp_path / "tok", "--workers", 1,
         "--output-prefix", tmp_path / "a"),
        ("merge_shards.py", "--input", tmp_path / "a.bin", tmp_path / "a.idx", "--output", tmp_path / "b"),
    ]  # fmt: skip
    for name, *arguments in steps:
        done = call(str(name), *arguments)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("\n") == 1, done.stdout
    reader = ShardReader(tmp_path / "b")
    reader.verify(600)
    assert len(reader) > 100
    assert all(document[-1] == 2 for document in reader)
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "b.bin").read_bytes()


def test_shards_of_a_set_are_validated_and_merged(tmp_path: Path) -> None:
    steps = [
        ("generate_corpus.py", "--output", tmp_path / "c.jsonl", "--megabytes", 0.2, "--seed", 1),
        ("train_tokenizer.py", "--input", tmp_path / "c.jsonl", "--vocab-size", 600, "--output", tmp_path / "tok"),
        ("preprocess_data.py", "--input", tmp_path / "c.jsonl", "--tokenizer", tmp_path / "tok", "--workers", 1,
         "--output-prefix", tmp_path / "made" / "set", "--shard-tokens", 20_000),
        ("merge_shards.py", "--input", tmp_path / "made" / "set.manifest.json", "--output", tmp_path / "all"),
    ]  # fmt: skip
    for name, *arguments in steps:
        done = call(str(name), *arguments)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("\n") == 1, done.stdout
    count = len(list((tmp_path / "made").glob("set-*.idx")))
    assert count > 2
    assert f"from {count} shards" in done.stdout
    done = call("validate_shards.py", tmp_path / "made" / "set", tmp_path / "all")
    assert done.returncode == 0, done.stdout
    assert (
        done.stdout.count("good, ")
        == done.stdout.count("IDs below 600, documents end with 2, checksums equal")
        == count + 1
    )
    damaged = tmp_path / "made" / "set-00001.bin"
    damaged.write_bytes(damaged.read_bytes()[:-2] + b"\x03\x00")
    done = call("validate_shards.py", tmp_path / "made" / "set.manifest.json")
    assert done.returncode == 1
    assert done.stdout.count("FAULT") == 1
    assert "does not end with token 2" in done.stdout


COMMANDS = ["generate_corpus.py", "train_tokenizer.py", "preprocess_data.py", "merge_shards.py", "validate_shards.py"]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples(name: str) -> None:
    done = call(name, "--help")
    assert done.returncode == 0
    assert "examples:" in done.stdout
    assert f"python tools/{name}" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate_corpus.py", "--output", "c.csv", "--megabytes", "1"),
        ("train_tokenizer.py", "--input", "missing.jsonl", "--output", "t"),
        ("preprocess_data.py", "--input", "missing.jsonl", "--tokenizer", "t", "--output-prefix", "p"),
        ("merge_shards.py", "--input", "missing", "--output", "p"),
        ("merge_shards.py", "--input", "missing.manifest.json", "--output", "p"),
        ("validate_shards.py", "missing.manifest.json"),
    ],
)
def test_errors_are_one_line(arguments: tuple[str, ...]) -> None:
    done = call(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_preprocessing_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, megatron_bielik.data.preprocess, megatron_bielik.data.validate, megatron_bielik.data.merge;"
        "import megatron_bielik.tokenizer.train, megatron_bielik.corpus.synthetic;"
        "print([name for name in ('torch', 'transformers', 'megatron') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
