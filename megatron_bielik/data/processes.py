"""Work of several processes in one folder: one command at a time, and workers that end with the process that started them."""

from __future__ import annotations

import fcntl
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from megatron_bielik.data.errors import DataError, write_error


@contextmanager
def locked(folder: Path, way_out: str) -> Iterator[None]:
    """Make a folder and hold it for this process alone, by a file named lock in it.

    Args:
        folder: Is made, with those above it.
        way_out: What to do where another process holds it, beside waiting.

    Raises:
        DataError: The folder cannot be made, or another process holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise write_error(folder, error) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError(f"{folder} is in use by another process; wait for it or {way_out}") from error
        yield
    finally:
        os.close(lock)


def follow_parent() -> None:
    """In a worker process: leave interrupts to the parent, and end when it is gone."""
    # An interrupt from the keyboard reaches every process; the parent alone decides, and what is being done is finished.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()


def follow_starter(starter: int) -> None:
    """In a process started by a command line: end when its parent, of process id ``starter``, is gone; looked at every second.

    The starter says who it is: killed early, it may be gone before this process could ask.
    """
    threading.Thread(target=_follow_starter, args=(starter, ""), daemon=True).start()


def follow_launcher() -> None:
    """In a rank that torchrun, srun or accelerate started: end when that is gone. To be called before the seconds of imports.

    Ranks can have sessions of their own and outlive it, and a job started again in the same folder must not find them there.
    """
    if "MASTER_ADDR" in os.environ:  # with every launcher, also where examples/launch/slurm.sh does without torchrun
        last_words = f"rank {os.environ.get('RANK')} ends: its launcher is gone"
        threading.Thread(target=_follow_starter, args=(os.getppid(), last_words), daemon=True).start()


def _follow_starter(starter: int, last_words: str) -> None:
    while os.getppid() == starter:
        time.sleep(1)
    if last_words:
        print(last_words, file=sys.stderr, flush=True)
    os._exit(1)


def _follow(sentinel: int) -> None:
    # A parent that was killed cannot end its workers, and they would wait for work for ever.
    multiprocessing.connection.wait([sentinel])
    os._exit(1)
