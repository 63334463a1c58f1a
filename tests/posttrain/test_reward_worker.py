"""The reward process: what hangs, crashes or returns nonsense costs one item, and the rest is as without a process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from megatron_bielik.posttrain.rewards.math_answer import math_answer
from megatron_bielik.posttrain.rewards.spec import RewardError, RewardSpec
from megatron_bielik.posttrain.rewards.worker import Failure, RewardWorker, Scores, combine

ROOT = Path(__file__).parents[2]

# Functions a user might bring; the completion says what to do.
REWARDS = r"""
import ctypes, os, re, signal, subprocess, sys, time

def act(completion, sample, scale=1.0):
    if completion == "raise":
        raise ValueError("line one\nline two \ud800")
    if completion == "loop":
        while True:
            pass
    if completion == "sleep":
        time.sleep(1000)
    if completion == "regex":
        re.match("(a+)+$", "a" * 60 + "b")
    if completion == "exit":
        os._exit(3)
    if completion == "sys.exit":
        sys.exit(4)
    if completion == "segfault":
        ctypes.string_at(0)
    if completion == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if completion == "recursion":
        act(completion, sample)
    if completion == "interrupt":
        raise KeyboardInterrupt
    if completion == "print":
        print("noise"), sys.stdout.flush(), sys.stderr.write("noise")
    if completion == "child":
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
        open(sample["path"], "w").write("started")
        time.sleep(1000)
    values = {"None": None, "nan": float("nan"), "inf": float("inf"), "text": "x", "list": [1.0], "complex": 1j, "true": True}
    return values.get(completion, len(completion) * scale)

def numpy_value(completion, sample):
    import numpy
    return numpy.float32(len(completion))

def pid(completion, sample):
    return os.getpid()
"""


@pytest.fixture(autouse=True)
def _own_rewards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_rewards.py").write_text(REWARDS)
    monkeypatch.syspath_prepend(str(tmp_path))


ACT = RewardSpec("own_rewards:act")


def scored(worker: RewardWorker, *completions: str, **sample: Any) -> Scores:
    return worker.score(completions, [sample] * len(completions))


def test_values_are_those_of_the_functions() -> None:
    specs = [RewardSpec("math_answer", 2.0), RewardSpec("length", 0.5, {"limit": 10, "end": 20}), RewardSpec("format")]
    completions = [r"\boxed{5}", "5", r"Więc \boxed{6}", r"\boxed{5} " + "x" * 100, "", "\ud800 😀"]
    samples = [{"answer": "5", "other": [1, {"x": None}]}] * len(completions)
    with RewardWorker(specs) as worker:
        scores = worker.score(completions, samples)
        again = worker.score(completions, samples)
    assert scores.values.dtype == np.float64
    assert scores.values.tolist() == [[1, 0, 0, 1, 0, 0], [1, 1, 0.6, 0, 1, 1], [1, 0, 1, 0, 0, 0]]
    assert scores.values[0].tolist() == [math_answer(*pair) for pair in zip(completions, samples, strict=True)]
    assert scores.failures == again.failures == []
    assert np.array_equal(scores.values, again.values)
    assert combine(scores, specs).tolist() == [3.5, 0.5, 1.3, 2.0, 0.5, 0.5]
    assert worker.restarts == 0


SOFT = {
    "raise": "ValueError: line one line two ?",
    "sys.exit": "SystemExit: 4",
    "interrupt": "KeyboardInterrupt:",
    "recursion": "RecursionError: maximum recursion depth exceeded",
    "None": "returned NoneType, no number",
    "nan": "returned nan",
    "inf": "returned inf",
    "text": "returned str, no number",
    "list": "returned list, no number",
    "complex": "returned complex, no number",
}


def test_errors_and_what_is_no_number_keep_the_child() -> None:
    with RewardWorker([RewardSpec("own_rewards:numpy_value"), ACT]) as worker:
        scores = scored(worker, "a", *SOFT, "ccc")
    assert scores.values[0].tolist() == [1.0, *map(len, SOFT), 3.0]
    assert scores.values[1].tolist() == pytest.approx([1.0, *[float("nan")] * len(SOFT), 3.0], nan_ok=True)
    assert [failure[:2] for failure in scores.failures] == [
        ("own_rewards:act", item) for item in range(1, len(SOFT) + 1)
    ]
    for failure, reason in zip(scores.failures, SOFT.values(), strict=True):
        assert failure.reason.startswith(reason)
        assert "\n" not in failure.reason
    assert worker.restarts == 0


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("exit", "ended the process with exit code 3"),
        ("segfault", "ended the process by signal SIGSEGV"),
        ("kill", "ended the process by signal SIGKILL"),
        ("loop", "took more than 0.3 seconds"),
        ("sleep", "took more than 0.3 seconds"),
        ("regex", "took more than 0.3 seconds"),
    ],
)
def test_a_crash_costs_its_item_only(word: str, reason: str) -> None:
    with RewardWorker([ACT, RewardSpec("own_rewards:numpy_value")], timeout_seconds=0.3) as worker:
        scores = scored(worker, "a", word, "ccc")
    assert scores.values[0].tolist() == pytest.approx([1.0, float("nan"), 3.0], nan_ok=True)
    assert scores.values[1].tolist() == [1.0, float(len(word)), 3.0]
    assert scores.failures == [("own_rewards:act", 1, reason)]
    assert worker.restarts == 1
    assert combine(scores, [ACT, ACT]).tolist() == [2.0, len(word), 6.0]


def test_formulas_that_never_end_are_wrong_answers() -> None:
    boxes = [r"9^{9^{9^{9}}}", "5"]
    with RewardWorker([RewardSpec("math_answer", options={"seconds": 1})], timeout_seconds=5) as worker:
        scores = scored(worker, *(rf"\boxed{{{box}}}" for box in boxes), answer="5")
    assert scores.values.tolist() == [[0.0, 1.0]]


def test_first_last_and_every_item_may_fail() -> None:
    with RewardWorker([ACT], timeout_seconds=5) as worker:
        scores = scored(worker, "exit", "exit", "raise", "exit")
        assert np.isnan(scores.values).all()
        assert [failure.item for failure in scores.failures] == [0, 1, 2, 3]
        assert worker.restarts == 3
        assert scored(worker, "abc").values.tolist() == [[3.0]]


def test_options_bools_and_output() -> None:
    with RewardWorker([RewardSpec("own_rewards:act", options={"scale": 0.5}), ACT]) as worker:
        assert scored(worker, "true", "print").values.tolist() == [[1.0, 2.5], [1.0, 5.0]]


def test_none_at_all_and_unequal() -> None:
    with RewardWorker([ACT, ACT]) as worker:
        scores = scored(worker)
        assert scores.values.shape == (2, 0)
        assert combine(scores, [ACT, ACT]).shape == (0,)
        with pytest.raises(ValueError, match="2 completions have 1 samples"):
            worker.score(["a", "b"], [{}])
        with pytest.raises(ValueError, match="scores are of 2 functions, the specs of 1"):
            combine(scores, [ACT])


def test_large_batch() -> None:
    completions = ["ż" * (n % 5000) for n in range(2000)]
    with RewardWorker([ACT, ACT]) as worker:
        values = worker.score(completions, [{"text": "x" * 1000}] * 2000).values
    assert values.tolist() == [[n % 5000 for n in range(2000)]] * 2


@pytest.mark.parametrize(
    ("specs", "timeout", "message"),
    [
        ([], 1, "no rewards were given"),
        ([ACT], 0, "timeout of rewards is 0 seconds"),
        ([ACT], float("nan"), "timeout of rewards is nan seconds"),
        ([RewardSpec("math_anwser")], 1, "did you mean 'math_answer'?"),
        ([RewardSpec("own_rewards:act", options={"scaly": 1.0})], 1, "has no option 'scaly', did you mean 'scale'?"),
    ],
)
def test_what_cannot_start_is_said_at_once(specs: list[RewardSpec], timeout: float, message: str) -> None:
    with pytest.raises(RewardError, match=re.escape(message)):
        RewardWorker(specs, timeout)


def test_a_module_that_ends_the_interpreter(tmp_path: Path) -> None:
    (tmp_path / "own_ends.py").write_text("import os; os._exit(7)")
    with pytest.raises(RewardError, match="did not start: ended the process with exit code 7"):
        RewardWorker([RewardSpec("own_ends:f")])


def test_a_child_killed_between_batches_is_started_again() -> None:
    with RewardWorker([RewardSpec("own_rewards:pid")]) as worker:
        first = int(scored(worker, "a").values[0, 0])
        os.kill(first, signal.SIGKILL)
        scores = scored(worker, "a", "b")
        assert scores.failures == []
        assert int(scores.values[0, 0]) == int(scores.values[0, 1]) != first


def test_what_a_reward_started_ends_with_it(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with RewardWorker([ACT], timeout_seconds=1) as worker:
        scores = scored(worker, "child", path=str(mark))
        assert mark.read_text() == "started"
        assert scores.failures[0].reason == "took more than 1 seconds"
        ours = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
        assert not [line for line in ours if "import time; time.sleep(1000)" in line]


def test_many_children_lost_before_their_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RewardWorker, "_take_up", lambda self, batch: False)
    with RewardWorker([ACT]) as worker, pytest.raises(RewardError, match="ended 3 times before its first call"):
        scored(worker, "a")


def test_close() -> None:
    worker = RewardWorker([RewardSpec("own_rewards:pid")])
    child = int(scored(worker, "a").values[0, 0])
    worker.close()
    worker.close()
    assert not psutil.pid_exists(child)
    assert scored(worker, "a").values[0, 0] != child
    worker.close()


@pytest.mark.parametrize("word", ["sleep", "regex"])
def test_the_child_follows_its_parent(tmp_path: Path, word: str) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "from megatron_bielik.posttrain.rewards.worker import RewardWorker, RewardSpec\n"
        "if __name__ == '__main__':\n"
        "    worker = RewardWorker([RewardSpec('own_rewards:pid'), RewardSpec('own_rewards:act')], 0.2)\n"
        "    print(int(worker.score(['a'], [{}]).values[0, 0]), flush=True)\n"
        "    worker.timeout_seconds = 1000\n"
        f"    worker.score([{word!r}], [{{}}])\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, env=environment, cwd=tmp_path) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        time.sleep(0.5)
        assert psutil.pid_exists(child)
        parent.kill()
    deadline = time.monotonic() + 8
    while psutil.pid_exists(child) and psutil.Process(child).status() != "zombie":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_failures_are_plain_tuples() -> None:
    assert Failure("f", 1, "why") == ("f", 1, "why")


def test_a_call_costs_little() -> None:
    completions, samples = ["słowo " * 200] * 64, [{"answer": "5"}] * 64
    with RewardWorker([RewardSpec("length")]) as worker:
        worker.score(completions, samples)
        begun = time.perf_counter()
        for _ in range(10):
            worker.score(completions, samples)
        assert (time.perf_counter() - begun) / 640 < 1e-3
