"""The examples: every stage is accepted and fits its GPUs, trains what it says, and the scripts do what they promise."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron_bielik.config import Config
from megatron_bielik.corpus.prepare_config import CorpusConfig
from megatron_bielik.settings import load_config, make_parser, parse
from megatron_bielik.training.parameter_table import layer_of, parameter_table, trainable_names
from megatron_bielik.training.plan import make_plan

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SCRIPTS = sorted([*EXAMPLES.glob("bielik-*/*.sh"), *EXAMPLES.glob("launch/*.sh")])

GPUS = {"bielik-1.5b": 32, "bielik-4.5b": 64}
SOURCES = {
    "bielik-1.5b": [0, 0, 0, *range(1, 27), 27, 27, 27],
    "bielik-4.5b": [0, 0, 0, *range(1, 28), *range(8, 35), 35, 35, 35],
}


def stage(model: str, number: int) -> Config:
    return load_config(*(EXAMPLES / model / f"stage{n}.yaml" for n in range(1, number + 1)))


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("model", GPUS)
def test_stage_fits_and_reaches_its_tokens(model: str, number: int) -> None:
    plan = make_plan(stage(model, number), GPUS[model], 80)
    assert plan.fits()
    assert plan.total_tokens == pytest.approx({1: 56e9, 2: 292e9}[number], rel=1e-4)
    assert plan.days() is not None
    assert plan.worst().trained == pytest.approx(
        (plan.parameters if number == 2 else plan.trained_from_start) / plan.config.parallel.tensor_parallel_size,
        rel=0.001,
    )


@pytest.mark.parametrize("model", GPUS)
def test_stage_1_trains_the_outermost_copies_and_the_embeddings(model: str) -> None:
    config = stage(model, 1)
    shape, sources = config.model.shape(), SOURCES[model]
    assert len(sources) == shape.num_layers
    copies = {n for n, source in enumerate(sources) if source in (sources[0], sources[-1])}
    chosen = trainable_names(parameter_table(shape), config.training.trainable)
    assert {layer_of(name) for name in chosen} == {None, *copies}
    assert {name for name in chosen if layer_of(name) is None} == {
        "embedding.word_embeddings.weight",
        "output_layer.weight",
    }


@pytest.mark.parametrize("model", GPUS)
def test_stage_2_goes_on_where_stage_1_ends(model: str) -> None:
    first, second = stage(model, 1), stage(model, 2)
    assert second.training.unfreeze_at_step == first.training.steps
    assert first.schedule == second.schedule
    assert second.schedule.decay_steps == second.training.steps
    assert (first.data, first.optimizer, first.checkpoint) == (second.data, second.optimizer, second.checkpoint)


@pytest.mark.parametrize("model", GPUS)
def test_other_pattern_in_the_comment(model: str) -> None:
    """The 4.5B's file offers a pattern for all layers that occur more than once."""
    text = (EXAMPLES / model / "stage1.yaml").read_text(encoding="utf-8")
    found = re.search(r"to train those as well: (\S+)", text)
    if model == "bielik-1.5b":
        assert found is None
        return
    assert found is not None
    sources = SOURCES[model]
    repeated = {n for n, source in enumerate(sources) if sources.count(source) > 1}
    names = trainable_names(parameter_table(stage(model, 1).model.shape()), [found[1] + r"\."])
    assert {layer_of(name) for name in names} == repeated


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_scripts_are_sound(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True, timeout=30)
    text = script.read_text(encoding="utf-8")
    if script.name != "environment.sh":  # that one is sourced
        assert "set -euo pipefail" in text
        assert script.stat().st_mode & stat.S_IXUSR


@pytest.mark.parametrize("model", GPUS)
@pytest.mark.parametrize("script", ["3_stage1.sh", "4_stage2.sh"])
def test_stage_scripts_are_accepted_by_the_dry_run(model: str, script: str) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "LAUNCH": f"{sys.executable} -m megatron_bielik.pretrain",
        "DATA": "/elsewhere",
    }
    command = [EXAMPLES / model / script, "--dry_run", "--world_size", str(GPUS[model])]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Fits" in done.stdout


def fake(folder: Path, name: str, body: str) -> None:
    """A command of that name, first in the PATH."""
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{body}\n", encoding="utf-8")
    path.chmod(0o755)


def test_torchrun_passes_everything_on(tmp_path: Path) -> None:
    fake(tmp_path, "torchrun", 'printf "%s\\n" "$@"')
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "NNODES": "4", "NODE_RANK": "2"}
    command = [EXAMPLES / "launch" / "torchrun.sh", "--config", "a b.yaml"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=True)
    words = done.stdout.splitlines()
    assert words[:4] == ["--nnodes", "4", "--node-rank", "2"]
    assert words[-4:] == ["-m", "megatron_bielik.pretrain", "--config", "a b.yaml"]


SLURM = {"SLURM_JOB_ID": "41", "SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_NODELIST": "n[0-1]", "SLURM_NTASKS": "16"}


def slurm(tmp_path: Path, srun: str) -> subprocess.Popen[str]:
    fake(tmp_path, "srun", srun)
    fake(tmp_path, "scontrol", f'echo "$@" >> {tmp_path}/scontrol.log; [[ $1 != show ]] || echo n0')
    environment = {**os.environ, **SLURM, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [str(EXAMPLES / "launch" / "slurm.sh"), "--config", "x.yaml"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def wait_for(path: Path) -> None:
    for _ in range(200):
        if path.exists():
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} did not appear")


@pytest.mark.parametrize("exit_code", [0, 1])
def test_slurm_requeues_after_a_clean_stop_only(tmp_path: Path, exit_code: int) -> None:
    body = f'trap "sleep 0.2; exit {exit_code}" USR1; touch {tmp_path}/up; while :; do sleep 0.05; done'
    job = slurm(tmp_path, body)
    wait_for(tmp_path / "up")
    job.send_signal(signal.SIGUSR1)
    assert job.wait(timeout=30) == exit_code
    calls = (tmp_path / "scontrol.log").read_text(encoding="utf-8")
    assert ("requeue 41" in calls) == (exit_code == 0)


@pytest.mark.parametrize("exit_code", [0, 3])
def test_slurm_without_a_signal_hands_on_the_status(tmp_path: Path, exit_code: int) -> None:
    job = slurm(tmp_path, f"exit {exit_code}")
    assert job.wait(timeout=30) == exit_code
    assert "requeue" not in (tmp_path / "scontrol.log").read_text(encoding="utf-8")


def test_slurm_gives_every_task_its_rank(tmp_path: Path) -> None:
    fake(tmp_path, "python", 'echo "$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $MASTER_PORT $*"')
    job = slurm(tmp_path, 'export SLURM_PROCID=9 SLURM_LOCALID=1; while [[ $1 == -* ]]; do shift; done; "$@"')
    assert job.communicate(timeout=30)[0].strip() == "9 1 16 n0 20041 -m megatron_bielik.pretrain --config x.yaml"


def test_the_corpus_example_is_accepted() -> None:
    """All its options are known; it has three sources and no model, and the rest are the defaults."""
    config, _ = parse(make_parser("", "", "", CorpusConfig), ["--config", str(EXAMPLES / "corpus" / "corpus.yaml")])
    assert [source.path for source in config.input] == ["raw/web", "raw/wiki.parquet", "raw/books"]
    assert config.quality.model is None
    assert config.near_duplicates == CorpusConfig().near_duplicates
