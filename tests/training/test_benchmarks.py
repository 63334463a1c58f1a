"""Benchmarks beside the training: the same scores as of the exported checkpoint, in log and plot; kills, failures, two ranks."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from megatron_bielik.evaluation.evaluate import Options, evaluate
from megatron_bielik.evaluation.polish_tasks import FIXTURES, select
from megatron_bielik.surgery.convert import export_hf
from megatron_bielik.tokenizer.byte_level import train_byte_level, write_byte_level
from megatron_bielik.training.plot import draw, load_run
from tests.conftest import ROOT, records, run, write_shard

pytestmark = pytest.mark.distributed
TASKS = ["polish_dyk_mc", "polish_ppc_mc"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A shard and a tokenizer of 600 entries."""
    folder = tmp_path_factory.mktemp("inputs")
    write_shard(folder / "toy", vocab_size=600)
    tokenizer = train_byte_level([path.read_text() for path in sorted(FIXTURES.rglob("*.jsonl"))], 600)
    assert tokenizer.get_vocab_size() == 600
    (folder / "tokenizer").mkdir()
    write_byte_level(tokenizer, folder / "tokenizer")
    return folder / "toy", folder / "tokenizer"


def options(inputs: tuple[Path, Path], folder: Path, **more: object) -> list[str]:
    chosen = {
        "model.vocab_size": 600, "model.num_layers": 2, "data.train": f"[{{prefix: {inputs[0]}}}]", "data.tokenizer": inputs[1],
        "data.sequence_length": 32, "training.steps": 6, "training.micro_batch_size": 2, "training.global_batch_size": 4,
        "training.precision": "fp32", "checkpoint.dir": folder, "checkpoint.save_interval": 2, "checkpoint.keep_last": 1,
        "benchmarks.interval": 4, "benchmarks.tasks": f"[{', '.join(TASKS)}]", "benchmarks.data": "fixtures",
        "logging.tensorboard": "false", **more,
    }  # fmt: skip
    return ["-m", "megatron_bielik.pretrain", *(f"--{name}={value}" for name, value in chosen.items())]


def scores(folder: Path) -> dict[tuple[int, str], float]:
    return {(one["step"], one["set"]): one["score"] for one in records(folder, "benchmark")}


@pytest.fixture(scope="module")
def finished(inputs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two ranks whose older checkpoints are removed as it goes, evaluated after steps 4 and 6."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run(options(inputs, folder, **{"parallel.tensor_parallel_size": 2}), processes=2, timeout=200)
    return folder


def test_scores_are_those_of_the_exported_checkpoint(finished: Path, tmp_path: Path) -> None:
    found = scores(finished)
    assert {step for step, _ in found} == {4, 6}
    assert {name for _, name in found} == {"open_pl", *TASKS}
    export_hf(finished, tmp_path / "model")
    wanted = evaluate(Options(tmp_path / "model", FIXTURES, 0), select(TASKS), tmp_path / "scores")
    for name in TASKS:
        assert found[6, name] == pytest.approx(wanted["tasks"][name]["normalised"])
    assert found[6, "open_pl"] == pytest.approx(wanted["averages"]["open_pl"])
    left = sorted(path.name for path in (finished / "benchmarks" / "step_00000004").iterdir())
    assert left == ["output.txt", "results.json", "tasks"]  # neither weights nor links to them stay


def test_the_plot_has_a_panel(finished: Path) -> None:
    loaded = load_run(finished)
    assert loaded.benchmarks["open_pl"][0] == [4, 6]
    titles = [axes.get_title(loc="left") for axes in draw([loaded]).axes]
    assert "Open PL, percent of the way from guessing to perfect" in titles


def evaluations(folder: Path) -> list[str]:
    """Command lines of the evaluations of a run that are alive."""
    lines = [" ".join(one.info["cmdline"] or []) for one in psutil.process_iter(["cmdline"])]
    return [line for line in lines if "checkpoint_job" in line and str(folder) in line]


def test_a_run_killed_while_evaluating_goes_on_to_the_same_scores(
    inputs: tuple[Path, Path], finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "killed"
    command = [sys.executable, *options(inputs, folder, **{"training.steps": 400, "checkpoint.keep_last": 1})]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not list(folder.glob("benchmarks/step_*/checkpoint")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while evaluations(folder):  # they notice
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert not list(folder.glob("benchmarks/step_00000004/results.json"))
    reached = max(int(path.name[5:]) for path in folder.glob("checkpoints/step_*"))
    steps = max(6, reached + 2)
    run(options(inputs, folder, **{"training.steps": steps, "schedule.decay_steps": 400}), timeout=200)
    assert {4, steps} <= {step for step, _ in scores(folder)}
    assert len(records(folder, "benchmark")) == len(scores(folder))  # none twice


def test_what_fails_is_an_event_and_the_training_goes_on(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(options(inputs, folder, **{"benchmarks.data": tmp_path / "none", "training.steps": 4}), timeout=200)
    (event,) = (one for one in records(folder, "event") if one["kind"] == "benchmarks")
    assert event["message"].startswith("step 4 was not evaluated: error: polish_dyk_mc: --data:")
    assert len(records(folder)) == 4


def test_results_that_were_not_logged_are_logged_at_the_next_start(
    inputs: tuple[Path, Path], finished: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "copy"))
    before = scores(folder)
    kept = [line for line in (folder / "log.jsonl").read_text().splitlines() if json.loads(line)["type"] != "benchmark"]
    (folder / "log.jsonl").write_text("\n".join(kept) + "\n")
    run(options(inputs, folder), timeout=200)
    assert scores(folder) == before


def test_an_interval_without_checkpoints_is_refused(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    done = run(options(inputs, tmp_path / "run", **{"benchmarks.interval": 3}), check=False)
    assert done.returncode == 2
    assert "benchmarks.interval is 3, it must be a multiple of checkpoint.save_interval, 2" in done.stderr
