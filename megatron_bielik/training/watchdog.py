"""Ends the job when a rank hangs or dies, and names the rank.

Every rank's thread keeps writing two things to the launcher's key-value store: that the process lives, and where its main
thread is (a counter and a phrase). A stuck rank leaves the others waiting inside a collective, so the one to name is the
rank whose process stopped writing, or else the one whose main thread came least far; ranks that are equally far show
their tracebacks. A process that is stopped does not
hear the launcher's SIGTERM either: a rank on its node kills it, so that the job need not wait for it.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass

import psutil
import torch.distributed as dist

EXIT_CODE = 75  # sysexits' "temporary failure": the same command may well succeed
_LAST_WORDS_SECONDS = 10.0


@dataclass(frozen=True)
class Beat:
    """A rank's last sign of life.

    Args:
        idle: Seconds since its main thread moved.
        moves: How often it has moved.
        doing: Where it was.
        written: When this was first read here, in this process's clock.
        host: Name of its node.
        process: Its process id there.
    """

    idle: float
    moves: int
    doing: str
    written: float
    host: str = ""
    process: int = 0


class Watchdog:
    """Watches all ranks of a job from each rank.

    Args:
        timeout: Seconds without progress after which the job ends; 0 watches nothing.
        rank, world_size: Of this process.
    """

    def __init__(self, timeout: float, rank: int, world_size: int) -> None:
        self._timeout, self._rank, self._world = timeout, rank, world_size
        self._moves, self._doing, self._moved = 0, "starting", time.monotonic()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin watching. The store is the launcher's, reached over a connection of its own."""
        if self._timeout <= 0 or "MASTER_ADDR" not in os.environ:
            return
        self._launcher = os.getppid()
        store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._store = dist.PrefixStore(f"watchdog/{attempt}", store)
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def progress(self, doing: str) -> None:
        """The main thread has come to something new."""
        self._moves, self._doing, self._moved = self._moves + 1, doing, time.monotonic()

    def stop(self) -> None:
        """Stop watching."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        seen: dict[int, tuple[str, float]] = {}  # what each rank wrote last, and when that was first read here
        last = time.monotonic()
        period = min(5.0, self._timeout / 10)  # the store serves the whole job
        while not self._stop.wait(min(1.0, period)):
            now = time.monotonic()
            if now - last < period:
                continue
            if now - last > self._timeout / 2:
                # This process itself was stopped for a while, perhaps with all the others: nobody is to blame for that.
                seen, self._moved = {}, now
            last = now
            try:
                self._store.set(str(self._rank), self._own_beat(now))
                for rank, text in self._read_all():
                    if rank not in seen or seen[rank][0] != text:
                        seen[rank] = (text, now)
            except RuntimeError:
                if os.getppid() == self._launcher:
                    return  # it ended on another node or with rank 0, and the launcher here ends this rank
                continue
            beats = {rank: _beat(text, read) for rank, (text, read) in seen.items()}
            blame = find_stuck_rank(beats, now, self._timeout)
            if blame is not None:
                _kill_sibling(beats[blame[0]])
                # Ranks inside the same step cannot be told apart from here: then each shows where it is.
                behind = self._moves <= beats[blame[0]].moves
                living = [rank for rank, beat in beats.items() if now - beat.written <= self._timeout]
                self._end(*blame, behind, living)

    def _own_beat(self, now: float) -> str:
        beat = {"idle": now - self._moved, "moves": self._moves, "doing": self._doing}
        # The time makes two beats of a stuck but living process differ.
        return json.dumps({**beat, "host": socket.gethostname(), "process": os.getpid(), "at": now})

    def _read_all(self) -> list[tuple[int, str]]:
        """What each rank that has begun wrote last; one request once all have, as the store serves the whole job."""
        keys = [str(rank) for rank in range(self._world)]
        if not self._store.check(keys):
            keys = [key for key in keys if self._store.check([key])]
        return [(int(key), text.decode()) for key, text in zip(keys, self._store.multi_get(keys), strict=True)]

    def _end(self, rank: int, why: str, traceback: bool, living: list[int]) -> None:
        print(
            f"rank {rank} {why}; the job ends here (training.hang_timeout_seconds={self._timeout:g})", file=sys.stderr
        )
        if traceback:
            print(f"rank {self._rank} is here:", file=sys.stderr, flush=True)
            faulthandler.dump_traceback(file=sys.stderr)
        sys.stderr.flush()
        self._wait_for_others(living)
        os._exit(EXIT_CODE)

    def _wait_for_others(self, living: list[int]) -> None:
        """Until the other ranks that live have seen the same and said so: the first to go has the launcher end them all."""
        end = time.monotonic() + _LAST_WORDS_SECONDS
        try:
            self._store.set(f"told/{self._rank}", "yes")
            while time.monotonic() < end and not self._store.check([f"told/{rank}" for rank in living]):
                time.sleep(0.1)
            time.sleep(0.5)  # they look ten times a second
        except RuntimeError:
            return  # the launcher is gone already


def _beat(text: str, read: float) -> Beat:
    content = json.loads(text)
    return Beat(content["idle"], content["moves"], content["doing"], read, content["host"], content["process"])


def _kill_sibling(beat: Beat) -> None:
    """Kill a stuck process of this node. One that is merely stuck in Python ends itself, with a traceback."""
    if beat.host != socket.gethostname() or beat.process == os.getpid():
        return
    try:
        process = psutil.Process(beat.process)
        # Same launcher: the number has not gone to some other program meanwhile.
        if process.ppid() == os.getppid() and process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP):
            process.send_signal(signal.SIGKILL)
    except psutil.Error:
        return  # gone already


def find_stuck_rank(beats: dict[int, Beat], now: float, timeout: float) -> tuple[int, str] | None:
    """The rank to blame and why, or none while some rank still moves.

    Args:
        beats: Last sign of life of each rank.
        now: In the clock of Beat.written.
        timeout: Seconds.
    """
    silent = [rank for rank, beat in beats.items() if now - beat.written > timeout]
    if silent:
        rank = min(silent, key=lambda r: beats[r].written)
        return rank, f"gave no sign of life for {timeout:g} s, last seen {beats[rank].doing}"
    if beats and all(beat.idle > timeout for beat in beats.values()):
        least = min(beat.moves for beat in beats.values())
        behind = [rank for rank, beat in beats.items() if beat.moves == least]
        rank = max(behind, key=lambda r: beats[r].idle)
        others = ", nor did any other rank: one of the tracebacks is no wait for the others"
        why = f"made no progress for {timeout:g} s while {beats[rank].doing}"
        return rank, why + (others if len(behind) == len(beats) > 1 else "")
    return None
