"""The whole recipe at its smallest sizes: every stage, nothing redone, and the same models after a kill in a stage."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "examples" / "recipe"
STAGES = yaml.safe_load((FOLDER / "dvc.yaml").read_text())["stages"]
pytestmark = [pytest.mark.distributed, pytest.mark.timeout(1500)]


def start(folder: Path, *stages: str) -> subprocess.Popen[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "QUICK": "1", "PATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [str(FOLDER / "run.sh"), str(folder), *stages],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True,
    )  # fmt: skip


def run(folder: Path, *stages: str, timeout: float = 1200) -> str:
    process = start(folder, *stages)
    try:
        output, _ = process.communicate(timeout=timeout)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, output[-5000:]
    return output


def ran(output: str) -> list[str]:
    return re.findall(r"^Running stage '(.+)':", output, re.MULTILINE)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("recipe") / "whole"
    return folder, run(folder)


def test_every_stage_runs_and_the_report_is_written(whole: tuple[Path, str]) -> None:
    folder, output = whole
    assert {name.partition("@")[0] for name in ran(output)} == STAGES.keys()
    report = (folder / "report.html").read_text()
    for part in ("gains", "warnings", "losses", "tokenizer", "corpus", "scores", "benchmarks", "speed"):
        assert f'<h2 id="{part}">' in report, part
    assert (folder / "model" / "model.safetensors").is_file()


def test_nothing_is_redone_but_what_changed(whole: tuple[Path, str]) -> None:
    folder, _ = whole
    assert ran(run(folder)) == []
    with (folder / "fertility.json").open("a") as file:
        file.write("\n")
    assert ran(run(folder)) == ["tokenizer", "report"] or ran(run(folder)) == []  # the tokenizer comes out as it was


@pytest.mark.parametrize(
    ("stage", "outputs", "sign", "made"),
    [
        ("corpus", ["corpus"], "corpus/work", "corpus/documents/00000.jsonl"),
        ("stage2", ["stage2"], "stage2/checkpoints/step_00000002", "pretrained/model.safetensors"),
        ("grpo", ["grpo"], "grpo/checkpoint-2/run_state.json", "grpo/final/model.safetensors"),
    ],
)
def test_a_kill_in_a_stage_changes_nothing(
    whole: tuple[Path, str], stage: str, outputs: list[str], sign: str, made: str
) -> None:
    folder = Path(
        shutil.copytree(whole[0], whole[0].with_name(f"killed-{stage}"))
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
