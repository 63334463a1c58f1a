"""The whole recipe at its smallest sizes: every stage, nothing redone, and the same models after a kill in a stage."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.examples.recipe_runs import ENVIRONMENT, FOLDER, ran, run, start

STAGES = yaml.safe_load((FOLDER / "dvc.yaml").read_text())["stages"]
pytestmark = [pytest.mark.distributed, pytest.mark.timeout(1500)]


def test_every_stage_runs_and_the_report_is_written(quick_recipe: tuple[Path, str]) -> None:
    folder, output = quick_recipe
    assert {name.partition("@")[0] for name in ran(output)} == STAGES.keys()
    report = (folder / "report.html").read_text()
    for part in ("gains", "warnings", "losses", "tokenizer", "corpus", "scores", "benchmarks", "speed"):
        assert f'<h2 id="{part}">' in report, part
    assert (folder / "model" / "model.safetensors").is_file()
    sentencepiece = (folder / "tokenizer" / "tokenizer.model").read_bytes()
    for name in ("start", "pretrained", "sft/checkpoint-4", "sft-merged", "dpo/final", "grpo/final", "model"):  # F3
        assert (folder / name / "tokenizer.model").read_bytes() == sentencepiece, name


def test_nothing_is_redone_but_what_changed(quick_recipe: tuple[Path, str]) -> None:
    folder, _ = quick_recipe
    assert ran(run(folder)) == []
    with (folder / "fertility.json").open("a") as file:
        file.write("\n")
    assert ran(run(folder)) == ["tokenizer", "report"] or ran(run(folder)) == []  # the tokenizer comes out as it was


def test_dvc_itself_works_in_the_folder(quick_recipe: tuple[Path, str]) -> None:
    def dvc(*arguments: str) -> str:
        line = ["dvc", *arguments]
        return subprocess.run(
            line, cwd=quick_recipe[0], env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=True
        ).stdout

    assert "up to date" in dvc("status")
    assert "stage2" in dvc("dag")
    assert ran(dvc("repro", "--force", "--single-item", "merge")) == ["merge"]


@pytest.mark.parametrize(
    ("stage", "outputs", "sign", "made"),
    [
        ("corpus", ["corpus"], "corpus/work", "corpus/documents/00000.jsonl"),
        ("stage2", ["stage2"], "stage2/checkpoints/step_00000002", "pretrained/model.safetensors"),
        ("grpo", ["grpo"], "grpo/checkpoint-2/run_state.json", "grpo/final/model.safetensors"),
    ],
)
def test_a_kill_in_a_stage_changes_nothing(
    quick_recipe: tuple[Path, str], stage: str, outputs: list[str], sign: str, made: str
) -> None:
    folder = Path(
        shutil.copytree(quick_recipe[0], quick_recipe[0].with_name(f"killed-{stage}"))
    )  # beside it: commands hold relative paths
    wanted = (folder / made).read_bytes()
    for output in [*outputs, Path(made).parts[0]]:
        shutil.rmtree(folder / output, ignore_errors=True)
    last = {"stage2": "export"}.get(stage, stage)
    process = start(folder, last)
    deadline = time.monotonic() + 300
    try:
        while not (folder / sign).exists():
            assert time.monotonic() < deadline
            assert process.poll() is None, f"{stage} ended before it could be killed"
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=30)
    assert not (folder / made).exists()
    assert stage in ran(run(folder, last))
    assert (folder / made).read_bytes() == wanted


def test_begin_clears_what_was_begun_with_other_inputs(tmp_path: Path) -> None:
    def begin(*inputs: str) -> None:
        line = [sys.executable, str(FOLDER / "begin.py"), "run", *inputs]
        subprocess.run(line, cwd=tmp_path, check=True, timeout=60)

    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_text("1")
    begin("data", "--steps 3")
    (tmp_path / "run" / "checkpoint").touch()
    begin("data", "--steps 3")
    assert (tmp_path / "run" / "checkpoint").exists()
    begin("data", "--steps 4")
    assert not (tmp_path / "run" / "checkpoint").exists()
    (tmp_path / "run" / "checkpoint").touch()
    (tmp_path / "data" / "a").write_text("2")
    begin("data", "--steps 4")
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_the_two_sizes_have_the_same_parameters() -> None:
    def names(value: object, depth: int = 2) -> object:
        return {key: names(one, depth - 1) for key, one in value.items()} if isinstance(value, dict) and depth else None

    full, quick = (yaml.safe_load((FOLDER / name).read_text()) for name in ("params.yaml", "quick-params.yaml"))
    for one in (full, quick):
        for parts in one["merges"].values():
            assert set(parts) <= one["scored"].keys()
        for part in ("scored", "merges", "evaluated"):
            one.pop(part)
    assert names(full) == names(quick)
