"""Who is to blame when a job stands still: tables of signs of life, and real jobs with a rank stopped or killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from megatron_bielik.training import watchdog
from megatron_bielik.training.watchdog import Beat, Watchdog, find_stuck_rank
from tests.training.test_resume import Job, command, steps_done

TIMEOUT = 15.0  # start-up on a loaded machine goes without a sign of life for longer than 8


def beat(idle: float, moves: int, doing: str = "in step 5", age: float = 0.0) -> Beat:
    """A sign of life that is `age` seconds old at time 1000."""
    return Beat(idle, moves, doing, 1000.0 - age)


@pytest.mark.parametrize(
    ("beats", "blamed"),
    [
        ({}, None),
        ({0: beat(1, 5), 1: beat(0, 5)}, None),
        # One rank waits in a collective, the other still moves: slow is not stuck.
        ({0: beat(100, 5), 1: beat(9.9, 6)}, None),
        ({0: beat(10, 5), 1: beat(10, 5)}, None),
        # All stand still: the one that came least far keeps the others waiting.
        ({0: beat(11, 5), 1: beat(12, 4), 2: beat(11, 5)}, 1),
        # As far as the others: it was there longest.
        ({0: beat(11, 5), 1: beat(30, 5), 2: beat(12, 5)}, 1),
        # A process that writes no more, whatever its last words were.
        ({0: beat(11, 4), 1: beat(0, 9, age=10.5)}, 1),
        ({0: beat(0, 4), 1: beat(0, 4, age=9.9)}, None),
        # Of several, the one that fell silent first: the others may be its victims.
        ({0: beat(0, 4, age=11), 1: beat(0, 4, age=13), 2: beat(0, 4, age=12)}, 1),
        # A silent one is blamed before a slow one.
        ({0: beat(50, 1), 1: beat(50, 2), 2: beat(50, 3, age=20)}, 2),
    ],
)
def test_who_is_blamed(beats: dict[int, Beat], blamed: int | None) -> None:
    found = find_stuck_rank(beats, 1000.0, 10.0)
    assert (None if found is None else found[0]) == blamed


def test_blame_says_where() -> None:
    stuck = find_stuck_rank({0: beat(11, 5), 1: beat(12, 4, "reading the data of step 3")}, 1000.0, 10.0)
    assert stuck == (1, "made no progress for 10 s while reading the data of step 3")
    both = find_stuck_rank({0: beat(11, 5), 1: beat(12, 5)}, 1000.0, 10.0)
    assert both is not None
    assert "nor did any other rank" in both[1]
    assert find_stuck_rank({0: beat(11, 5)}, 1000.0, 10.0) == (0, "made no progress for 10 s while in step 5")
    silent = find_stuck_rank({0: beat(11, 5, "in step 7", age=30)}, 1000.0, 10.0)
    assert silent == (0, "gave no sign of life for 10 s, last seen in step 7")


@pytest.fixture
def sleeper() -> Iterator[psutil.Popen]:
    """A child process that sleeps: a sibling of nobody here."""
    process = psutil.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    if process.is_running():
        process.kill()
    process.wait(10)


def wait_for(process: psutil.Process, status: str) -> None:
    """Wait until the kernel shows a process in a state."""
    deadline = time.monotonic() + 10
    while process.status() != status:
        assert time.monotonic() < deadline, process.status()
        time.sleep(0.01)


def test_only_a_stopped_sibling_of_this_node_is_killed(sleeper: psutil.Popen, monkeypatch: pytest.MonkeyPatch) -> None:
    here = socket.gethostname()
    sleeper.suspend()
    wait_for(sleeper, psutil.STATUS_STOPPED)
    as_beat = Beat(0.0, 1, "", 0.0, here, sleeper.pid)
    watchdog._kill_sibling(as_beat)  # another parent than this process's
    watchdog._kill_sibling(Beat(0.0, 1, "", 0.0, "another node", sleeper.pid))
    monkeypatch.setattr("os.getppid", lambda: sleeper.ppid())
    sleeper.resume()
    wait_for(sleeper, psutil.STATUS_SLEEPING)
    watchdog._kill_sibling(as_beat)  # not stopped: it can end itself
    time.sleep(0.1)
    assert sleeper.is_running()
    sleeper.suspend()
    wait_for(sleeper, psutil.STATUS_STOPPED)
    watchdog._kill_sibling(as_beat)
    assert sleeper.wait(10) == -signal.SIGKILL
    watchdog._kill_sibling(as_beat)  # gone: nothing happens


def test_without_a_launcher_or_a_timeout_nothing_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    for timeout in (0.0, 10.0):
        one = Watchdog(timeout, 0, 1)
        one.start()
        one.progress("in step 1")
        one.stop()


# A rank whose main thread is stuck while its process lives: here in a sleep, in life inside a collective or a read.
STUCK = """
import os, sys, time
import torch.distributed as dist
from megatron_bielik.training.watchdog import Watchdog
rank = int(os.environ["RANK"])
dist.init_process_group("gloo")
watchdog = Watchdog(3.0, rank, 2)
watchdog.start()
for step in range(1, 4):
    watchdog.progress(f"in step {step}")
    if rank == 1 and step == 3:
        time.sleep(100)
    dist.barrier()
watchdog.progress("waiting")
time.sleep(100)
"""


@pytest.mark.distributed
def test_ranks_stuck_in_a_step_show_where(tmp_path: Path) -> None:
    script = tmp_path / "stuck.py"
    script.write_text(STUCK)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    started = time.monotonic()
    job = Job(torchrun, tmp_path / "output")
    assert job.wait(90) != 0
    assert time.monotonic() - started < 45
    output = job.output()
    assert "made no progress for 3 s while in step 3, nor did any other rank" in output
    assert "rank 0 is here:" in output
    assert "rank 1 is here:" in output
    assert f'{script}", line 12' in output, "the traceback shows the line"
    assert f'{script}", line 13' in output, "and where the other waits"


FOLLOWS = """
import time
from megatron_bielik.data.processes import follow_launcher
follow_launcher()
print("following", flush=True)
time.sleep(100)
"""


@pytest.mark.distributed
def test_ranks_end_with_their_launcher(tmp_path: Path) -> None:
    """A killed torchrun cannot end its workers, and they must not go on writing where the next job will."""
    script = tmp_path / "follows.py"
    script.write_text(FOLLOWS)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    job = Job(torchrun, tmp_path / "output")
    job.wait_until(lambda: job.output().count("following") == 2)
    workers = psutil.Process(job._process.pid).children(recursive=True)
    assert len(workers) >= 2
    job._process.kill()
    _, alive = psutil.wait_procs(workers, timeout=10)
    for process in alive:
        process.kill()
    assert not alive
    assert "rank 0 ends: its launcher is gone" in job.output()


def test_a_rank_without_torchrun_ends_with_its_launcher_too(tmp_path: Path) -> None:
    """As under srun: MASTER_ADDR says that this is a rank, nothing comes from torchrun."""
    script = tmp_path / "follows.py"
    script.write_text(FOLLOWS)
    kept = {name: value for name, value in os.environ.items() if "TORCHELASTIC" not in name}
    launcher = subprocess.Popen(
        ["bash", "-c", f"'{sys.executable}' '{script}' & wait"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**kept, "MASTER_ADDR": "localhost", "RANK": "0"},
    )  # fmt: skip
    assert launcher.stdout is not None
    assert launcher.stdout.readline() == "following\n"
    (rank,) = psutil.Process(launcher.pid).children()
    launcher.kill()
    _, alive = psutil.wait_procs([rank], timeout=10)
    for process in alive:
        process.kill()
    assert not alive
    assert "rank 0 ends: its launcher is gone" in launcher.communicate(timeout=10)[0]


class Ranks:
    """A job of two ranks in training, and its processes."""

    def __init__(self, shard: Path, folder: Path) -> None:
        self.folder = folder
        options = [
            f"--training.hang_timeout_seconds={TIMEOUT:g}",
            "--training.steps=100000",
            "--training.eval_interval=0",
        ]
        options += ["--checkpoint.save_interval=0", "--training.unfreeze_at_step=null"]
        self.job = Job(command(shard, folder / "run", 2, *options), folder / "output")
        self.job.wait_until(lambda: steps_done(folder / "run") >= 3)
        self.processes = psutil.Process(self.job._process.pid).children(recursive=True)

    def rank(self, number: int) -> psutil.Process:
        """The process of a rank."""
        (found,) = (
            p for p in self.processes if p.environ().get("RANK") == str(number) and "pretrain" in str(p.cmdline())
        )
        return found

    def end(self) -> float:
        """Wait for the job's end; returns the seconds it took."""
        started = time.monotonic()
        assert self.job.wait(TIMEOUT + 60) != 0
        seconds = time.monotonic() - started
        _, alive = psutil.wait_procs(self.processes, timeout=10)
        assert not alive, f"left running: {alive}"
        return seconds


@pytest.fixture
def ranks(shard: Path, tmp_path: Path) -> Iterator[Ranks]:
    """Two data-parallel ranks that train; nothing of them is left afterwards."""
    job = Ranks(shard, tmp_path)
    yield job
    for process in job.processes:
        if process.is_running():
            process.kill()


@pytest.mark.distributed
def test_stopped_rank_ends_the_job(ranks: Ranks) -> None:
    """A process that the kernel keeps from running, as on a node that thrashes: only the other rank can tell."""
    ranks.rank(1).suspend()
    assert TIMEOUT * 0.8 < ranks.end() < TIMEOUT + 30
    output = ranks.job.output()
    assert f"rank 1 gave no sign of life for {TIMEOUT:g} s, last seen " in output, output[-3000:]
    assert "rank 0 gave" not in output


@pytest.mark.distributed
def test_job_that_slept_goes_on_and_a_killed_rank_ends_it(ranks: Ranks) -> None:
    """A batch system suspends whole jobs for longer than any timeout: nobody is to blame for that. Then a rank dies, as
    when memory runs out: the launcher sees it and names the rank."""
    for (
        process
    ) in ranks.processes:  # each in a session of its own: a signal to the job's group reaches the launcher only
        process.suspend()
    before = steps_done(ranks.folder / "run")
    time.sleep(TIMEOUT + 2)
    assert steps_done(ranks.folder / "run") <= before + 1
    for process in ranks.processes:
        process.resume()
    ranks.job.wait_until(lambda: steps_done(ranks.folder / "run") > before + 20, timeout=60)
    assert "sign of life" not in ranks.job.output()

    ranks.rank(1).send_signal(signal.SIGKILL)
    assert ranks.end() < TIMEOUT + 35
    output = ranks.job.output()
    assert "Signal 9 (SIGKILL)" in output, output[-3000:]
    assert "local_rank: 1" in output
