"""The command: a figure, a comparison, and errors in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_bielik.training.log import JsonLines

ROOT = Path(__file__).parents[2]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "plot_run.py"), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sink = JsonLines(tmp_path / "a" / "log.jsonl")
    for step in range(1, 20):
        sink.write({"type": "train", "step": step, "loss": 5 / step, "lr": 1e-4})
    sink.close()
    return tmp_path / "a"


def test_default_output_stands_in_the_run(folder: Path) -> None:
    done = run(folder, "--smooth", "0.9", "--reference", "7.1", "unigram entropy")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == f"wrote {folder / 'plot.png'}"
    assert (folder / "plot.png").stat().st_size > 10_000


def test_comparison(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "compare.svg"
    assert run(folder, folder / "log.jsonl", "--output", output).returncode == 0
    assert output.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["missing"], "does not exist"), (["a", "--smooth", "2"], "smooth is 2"), (["a", "--output", "x.doc"], ".png")],
)
def test_errors(folder: Path, arguments: list[str], message: str) -> None:
    first = folder.parent / arguments[0]
    done = run(first, *arguments[1:])
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_help_has_examples() -> None:
    assert "examples:" in run("--help").stdout
