"""Each check on a log made for it, and on its healthy counterpart; the command on logs that cannot be read."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from megatron_bielik.training.diagnosis.diagnose import Diagnosis, diagnose
from megatron_bielik.training.diagnosis.finding import Finding, Severity
from megatron_bielik.training.log import JsonLines

ROOT = Path(__file__).parents[2]
BEGIN = 1_700_000_000.0
Record = dict[str, Any]
Config = dict[str, dict[str, Any]]
PRETRAINING: Config = {"training": {"steps": 100, "global_batch_size": 4}, "optimizer": {"clip_grad": 1.0}}
DPO: Config = {"model": {"path": "m"}, "training": {"steps": 100}, "loss": {"beta": 0.1}}
GRPO: Config = {
    "model": {"path": "m"},
    "training": {"steps": 100},
    "loss": {"kl_limit": 1.0},
    "rewards": {"functions": []},
}


def healthy(step: int) -> Record:
    """A step of a run that learns: falling loss, quiet norms, two seconds a step."""
    noise = math.sin(7.0 * step)
    return {
        "type": "train", "step": step, "loss": 2 + 3 * math.exp(-step / 20) + 0.01 * noise, "lr": 1e-4,
        "grad_norm": 0.5 + 0.05 * noise, "step_seconds": 2 + 0.01 * noise, "time": BEGIN + 2 * step,
    }  # fmt: skip


def write(
    folder: Path,
    change: Callable[[Record], Record] = lambda record: record,
    steps: int = 100,
    config: Config | None = None,
    more: list[Record] | None = None,
) -> Path:
    """The log of a run of 100 steps; `more` stands in it where its steps are."""
    sink = JsonLines(folder / "log.jsonl")
    sink.write({"type": "run", "name": "r", "step": 0, "config": config or PRETRAINING, "time": BEGIN})
    extra = list(more or [])
    for step in range(1, steps + 1):
        sink.write(change(healthy(step)))
        while extra and extra[0]["step"] <= step:
            sink.write(extra.pop(0))
    sink.close()
    return folder


def look(folder: Path, late: float = 1.0) -> Diagnosis:
    return diagnose(folder, now=BEGIN + 200 + late)


def wrong(diagnosis: Diagnosis, check: str) -> list[Finding]:
    return [one for one in diagnosis.wrong if one.check == check]


def event(step: int, kind: str, message: str, **more: Any) -> Record:
    return {"type": "event", "step": step, "kind": kind, "message": message, **more}


def evaluation(step: int, loss: float | None, name: str = "pl") -> Record:
    return {"type": "eval", "step": step, "set": name, "loss": loss}


def test_a_healthy_run_gives_no_alarm(tmp_path: Path) -> None:
    evals = [evaluation(step, 5 - step / 40) for step in (25, 50, 75, 100)]
    diagnosis = look(write(tmp_path, more=evals))
    assert diagnosis.wrong == ()
    checks = {one.check for one in diagnosis.findings}
    assert {"ending", "divergence", "loss spikes", "skipped steps", "gradient noise", "forgetting", "stalls"} <= checks


def test_a_rising_loss_and_a_loss_above_its_start(tmp_path: Path) -> None:
    def rise(record: Record) -> Record:
        return {**record, "loss": record["loss"] + max(0, record["step"] - 80) * 0.02}

    (rising,) = wrong(look(write(tmp_path / "a", rise)), "divergence")
    assert (rising.severity, rising.steps) == (Severity.WARNING, (81, 100))
    losses = np.array([rise(healthy(step))["loss"] for step in range(61, 101)])
    assert rising.value == pytest.approx(losses[20:].mean() - losses[:20].mean())
    (above,) = wrong(look(write(tmp_path / "b", lambda r: {**r, "loss": 3 + 0.03 * r["step"]})), "divergence")
    assert above.severity is Severity.PROBLEM
    assert "above its start" in above.message
    (lost,) = wrong(
        look(write(tmp_path / "c", lambda r: {**r, "loss": math.nan if r["step"] > 90 else 2.0})), "divergence"
    )
    assert "not finite" in lost.message


def test_a_noisy_loss_that_falls_is_no_divergence(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.5, 101)
    noisy = write(tmp_path, lambda r: {**r, "loss": r["loss"] + float(noise[r["step"]])})
    assert wrong(look(noisy), "divergence") == []


def test_spikes_and_skipped_steps(tmp_path: Path) -> None:
    spike = "loss 9.1000 is 12.5 deviations above 2.2000; samples of the step: data/web 160 to 163"
    events = [event(41, "spike", spike), event(60, "skip", "loss nan, gradient norm nan: step skipped (1 in all)")]
    diagnosis = look(write(tmp_path, more=events))
    (one,) = wrong(diagnosis, "loss spikes")
    assert (one.steps, one.severity) == ((41,), Severity.WARNING)
    assert "loss 9.100, 12.5 deviations above 2.200" in one.message
    assert one.details[0].startswith("no document is named: ")  # the log's options name no data
    assert wrong(diagnosis, "skipped steps")[0].steps == (60,)


def test_several_signs_of_a_high_rate_and_one_alone(tmp_path: Path) -> None:
    clipped = write(tmp_path / "a", lambda r: {**r, "grad_norm": 1.5})
    assert wrong(look(clipped), "learning rate") == []
    both = write(tmp_path / "b", lambda r: {**r, "grad_norm": 1.5, "loss": 3 + 0.03 * r["step"]})
    (one,) = wrong(look(both), "learning rate")
    assert (one.value, one.severity) == (2, Severity.PROBLEM)
    assert "100% of the second half's steps clipped" in one.message


def test_gradient_noise_and_single_norms(tmp_path: Path) -> None:
    norms = np.random.default_rng(1).lognormal(-1, 2.5, 101)
    noisy_run = write(tmp_path / "a", lambda r: {**r, "grad_norm": float(norms[r["step"]])})
    (noisy,) = [one for one in wrong(look(noisy_run), "gradient noise") if "of the last fifth" in one.message]
    late = norms[81:]
    assert noisy.value == pytest.approx(late.var() / late.mean() ** 2)
    single = write(tmp_path / "b", lambda r: {**r, "grad_norm": 20.0 if r["step"] == 50 else r["grad_norm"]})
    (outlier,) = wrong(look(single), "gradient noise")
    assert (outlier.steps, outlier.severity) == ((50,), Severity.WARNING)


def test_forgetting_of_one_set_and_of_a_benchmark(tmp_path: Path) -> None:
    records = [evaluation(50, 3.0, "en"), evaluation(50, 4.0, "pl")]
    records += [{"type": "benchmark", "step": 50, "set": "polish_mc", "score": 40.0}]
    records += [evaluation(100, 3.4, "en"), evaluation(100, 3.5, "pl")]
    records += [{"type": "benchmark", "step": 100, "set": "polish_mc", "score": 31.0}]
    english, tasks = wrong(look(write(tmp_path, more=records)), "forgetting")
    assert english.message == "the loss on en rose from 3.000 at step 50 to 3.400"
    assert (english.severity, english.value) == (Severity.PROBLEM, pytest.approx(0.4))
    assert tasks.message == "polish_mc fell from 40.0 at step 50 to 31.0 points"
    assert tasks.severity is Severity.WARNING
    (lost,) = wrong(look(write(tmp_path / "b", more=[evaluation(50, 3.0), evaluation(100, None)])), "forgetting")
    assert lost.severity is Severity.PROBLEM


def test_slow_steps_a_pause_and_a_restart(tmp_path: Path) -> None:
    slow = look(write(tmp_path / "a", lambda r: {**r, "step_seconds": 40.0 if r["step"] in (30, 70) else 2.0}))
    (one,) = wrong(slow, "stalls")
    assert (one.steps, one.value) == ((30, 70), pytest.approx(76 / (97 * 2 + 80)))
    paused = look(write(tmp_path / "b", lambda r: {**r, "time": r["time"] + 500 * (r["step"] > 40)}), 500)
    (one,) = wrong(paused, "stalls")
    assert (one.steps, one.value) == ((41,), pytest.approx(500, abs=1))
    again = {"type": "run", "name": "r", "step": 40, "config": PRETRAINING, "time": BEGIN + 580}
    shifted = write(tmp_path / "c", lambda r: {**r, "time": r["time"] + 500 * (r["step"] > 40)}, more=[again])
    restarted = look(shifted, 500)
    assert wrong(restarted, "stalls") == []
    assert any("started 2 times, 500 s between" in finding.message for finding in restarted.findings)


def test_long_checkpoints_and_evaluations(tmp_path: Path) -> None:
    saved = [event(step, "checkpoint", f"step {step} saved, 10.0 s of the loop") for step in (50, 100)]
    (one,) = wrong(look(write(tmp_path / "a", more=saved)), "stalls")
    assert one.value == pytest.approx(20 / 200, rel=0.01)
    evals = [{**evaluation(step, 4 - step / 100), "time": BEGIN + 2 * step + 1.9} for step in range(1, 101)]
    (one,) = wrong(look(write(tmp_path / "b", more=evals)), "stalls")
    assert one.value == pytest.approx(0.95, rel=0.01)


@pytest.mark.parametrize(
    ("stop", "late", "severity", "words"),
    [
        (None, 1, Severity.OK, "at step 50 of 100, last record"),
        (None, 5000, Severity.WARNING, "without a word"),
        ("stopping after step 50: SIGTERM was received", 5000, Severity.NOTE, "stopped at step 50 of 100"),
        ("stopping after step 50: 10 steps in a row were not finite", 5000, Severity.PROBLEM, "ended by a failure"),
    ],
)
def test_how_an_unfinished_run_ended(
    tmp_path: Path, stop: str | None, late: float, severity: Severity, words: str
) -> None:
    more = [event(50, "stop", stop, time=BEGIN + 100)] if stop else []
    (ending,) = [one for one in look(write(tmp_path, steps=50, more=more), late).findings if one.check == "ending"]
    assert ending.severity is severity
    assert words in ending.message


def test_a_failure_that_a_restart_overcame_is_over(tmp_path: Path) -> None:
    more = [event(40, "stop", "stopping after step 40: 10 steps in a row were not finite")]
    more += [{"type": "run", "name": "r", "step": 40, "config": PRETRAINING, "time": BEGIN + 81}]
    assert wrong(look(write(tmp_path, more=more)), "ending") == []


def test_the_watchdogs_last_words(tmp_path: Path) -> None:
    words = "rank 3 made no progress for 1800 s while in step 51; the job ends here"
    write(tmp_path)
    (tmp_path / "slurm.out").write_bytes(b"\xff noise\n" + words.encode() + b"\ntraceback\n")
    (one,) = wrong(look(tmp_path), "stalls")
    assert one.message == f"slurm.out: {words}"


def test_dpo(tmp_path: Path) -> None:
    def pairs(chosen: float, accuracy: float) -> Callable[[Record], Record]:
        return lambda r: {**r, "chosen_log_ratio": chosen * r["step"] / 100, "accuracy": accuracy, "margin": 0.1}

    assert look(write(tmp_path / "a", pairs(0.4, 0.8), config=DPO)).wrong == ()
    bad = look(write(tmp_path / "b", pairs(-5.0, 0.4), config=DPO))
    (chosen,) = wrong(bad, "chosen answers")
    assert chosen.value == pytest.approx(np.mean([5 * step / 100 for step in range(81, 101)]))
    assert wrong(bad, "preference accuracy")


def test_grpo(tmp_path: Path) -> None:
    def step(reward: float, kl: float, silent: float, clipped: float, failures: int) -> Callable[[Record], Record]:
        return lambda r: {
            **r, "loss": 0.001 * r["step"], "reward": 0.5 + reward * r["step"] / 100, "kl": kl * r["step"] / 100,
            "frac_reward_zero_std": silent, "completions/clipped_ratio": clipped, "reward_failures": failures,
        }  # fmt: skip

    assert look(write(tmp_path / "a", step(0.4, 0.1, 0.2, 0.0, 0), config=GRPO)).wrong == ()
    bad = look(write(tmp_path / "b", step(-0.4, 1.2, 0.9, 0.5, 3), config=GRPO))
    (divergence,) = wrong(bad, "divergence")
    assert (divergence.severity, divergence.steps) == (Severity.PROBLEM, (100,))
    assert wrong(bad, "reward")[0].value == pytest.approx((0.458 - 0.138) / 0.458)
    assert len(wrong(bad, "learning signal")) == 3
    nothing = look(write(tmp_path / "c", lambda r: {**r, "reward": 0.0}, config=GRPO))
    assert "no answer is ever rewarded" in wrong(nothing, "reward")[0].advice


def layers(factor: float = 1.0, broken: bool = False) -> dict[str, torch.Tensor]:
    """Weights of five layers in Hugging Face's names; the third one's matrix times a factor."""
    found = {f"model.layers.{n}.mlp.up_proj.weight": torch.full((4, 3), 2.0) for n in range(5)}
    found["model.layers.2.mlp.up_proj.weight"] *= factor
    found["model.norm.weight"] = torch.ones(3)
    if broken:
        found["model.norm.weight"][1] = math.inf
    return found


def checkpoint(folder: Path, step: int, tensors: dict[str, torch.Tensor]) -> None:
    place = folder / f"checkpoint-{step}"
    place.mkdir(parents=True)
    save_file(tensors, place / "model.safetensors")
    (place / "run_state.json").write_text("{}")


def test_weight_norms(tmp_path: Path) -> None:
    for step, factor in ((50, 1.0), (100, 3.0)):
        checkpoint(write(tmp_path, config=DPO) if step == 50 else tmp_path, step, layers(factor))
    diagnosis = look(tmp_path)
    group, single = sorted(wrong(diagnosis, "weight norms"), key=lambda one: one.value or 0)
    assert group.value == pytest.approx(math.sqrt((4 + 9) / 5))  # four layers as they were, one three times as large
    assert single.message.startswith("model.layers.2.mlp.up_proj.weight grew 3.00 times")
    norms = next(one for one in diagnosis.findings if one.message.startswith("norms: "))
    assert norms.message.startswith("norms: 1.732 (step 50), 1.732 (step 100)")


def test_a_slow_growth_over_thousands_of_steps(tmp_path: Path) -> None:
    write(tmp_path, config=DPO)
    for step, size in ((1000, 2.0), (2000, 2.8), (3000, 3.92)):
        checkpoint(tmp_path, step, {"model.layers.0.mlp.up_proj.weight": torch.full((4, 3), size)})
    (one,) = wrong(look(tmp_path), "weight norms")
    assert (one.value, one.limit) == (pytest.approx(0.4), 0.25)
    assert one.message.endswith("+40.0% per 1,000 steps")


def test_weights_that_are_not_finite_and_a_damaged_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, config=DPO)
    checkpoint(tmp_path, 50, layers(broken=True))
    checkpoint(tmp_path, 100, layers())
    file = tmp_path / "checkpoint-100" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    diagnosis = look(tmp_path)
    assert "step 50: 1 weights are not finite, in 1 tensors, the first model.norm.weight" in [
        one.message for one in wrong(diagnosis, "weight norms")
    ]
    assert len(wrong(diagnosis, "checkpoints")) == 1


def test_a_slow_rank(tmp_path: Path) -> None:
    def ranks(slowest: Callable[[int], int], seconds: float) -> Callable[[Record], Record]:
        def change(record: Record) -> Record:
            rank = slowest(record["step"])
            return {**record, "slowest_rank": rank, "slowest_rank_seconds": seconds, "median_rank_seconds": 1.0}

        return change

    (one,) = wrong(look(write(tmp_path / "a", ranks(lambda step: 5, 1.6))), "stragglers")
    assert (one.severity, one.value) == (Severity.PROBLEM, pytest.approx(1.6))
    assert one.message.startswith("rank 5 is the slowest in 100% of the records")
    assert wrong(look(write(tmp_path / "b", ranks(lambda step: step % 8, 1.6))), "stragglers") == []
    assert wrong(look(write(tmp_path / "c", ranks(lambda step: 5, 1.1))), "stragglers") == []


def test_a_cut_off_last_line_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, steps=60)
    with (tmp_path / "log.jsonl").open("a") as stream:
        stream.write('{"type": "train", "step": 61, "lo')
    assert look(tmp_path).history.last_step == 60


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    parts = [sys.executable, str(ROOT / "tools" / "diagnose.py"), *map(str, arguments)]
    return subprocess.run(parts, capture_output=True, text=True, timeout=60, env=environment)


def test_the_command_sorts_by_severity_and_writes_json(tmp_path: Path) -> None:
    write(tmp_path / "run", lambda r: {**r, "loss": math.nan}, more=[evaluation(50, 3.0), evaluation(100, 3.1)])
    done = command(tmp_path / "run", "--json", tmp_path / "out.json", "--checkpoints", 0)
    assert (done.returncode, done.stderr) == (0, "")
    written = json.loads((tmp_path / "out.json").read_text())
    order = ["problem", "warning", "note", "ok"]
    found = [order.index(one["severity"]) for one in written["findings"]]
    assert found == sorted(found)
    assert found[:2] == [0, 1]
    assert done.stdout.splitlines()[1].startswith("problem  divergence: ")
    assert next(one for one in written["findings"] if one["check"] == "divergence")["value"] is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "log.jsonl not found; give the folder of a run"),
        ("", "holds no records of a run yet"),
        ('{"type": "train"\n{}\n', "line 1 is not a JSON object"),
        ('{"a": 1}\n', "line 1 is no record of a run"),
    ],
)
def test_unreadable_input_is_one_line(tmp_path: Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / "log.jsonl").write_text(content)
    done = command(tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert words in done.stderr


def test_refused_options() -> None:
    done = command("nowhere", "--documents", "-1")
    assert done.returncode == 2
    assert "needs a whole number, 0 or more" in done.stderr
    done = command("nowhere", "--json", "/nowhere/out.json")
    assert done.stderr == "error: --json is /nowhere/out.json, its folder does not exist; make it, or choose another\n"
