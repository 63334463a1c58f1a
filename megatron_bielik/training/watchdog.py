"""Ends the job when a rank hangs or dies, and names the rank.

Every rank's thread keeps writing two things to the launcher's key-value store: that the process lives, and where its main
thread is (a counter and a phrase). A stuck rank leaves the others waiting inside a collective, so the one to name is the
rank whose process stopped writing, or else the one whose main thread came least far.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import threading
import time
from dataclasses import dataclass

import torch.distributed as dist

EXIT_CODE = 75  # sysexits' "temporary failure": the same command may well succeed


@dataclass(frozen=True)
class Beat:
    """A rank's last sign of life: seconds since its main thread moved, how often it has moved, what it was doing."""

    idle: float
    moves: int
    doing: str
    written: float


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
        while not self._stop.wait(min(1.0, self._timeout / 5)):
            now = time.monotonic()
            # The beat number makes two beats of a stuck but living process differ.
            beat = {"idle": now - self._moved, "moves": self._moves, "doing": self._doing, "at": now}
            try:
                self._store.set(str(self._rank), json.dumps(beat))
                for rank in range(self._world):
                    if self._store.check([str(rank)]):
                        text = self._store.get(str(rank)).decode()
                        if rank not in seen or seen[rank][0] != text:
                            seen[rank] = (text, now)
            except RuntimeError:
                return  # the store went away with the launcher, which is ending every rank itself
            beats = {rank: _beat(text, read) for rank, (text, read) in seen.items()}
            blame = find_stuck_rank(beats, now, self._timeout)
            if blame is not None:
                self._end(*blame)

    def _end(self, rank: int, why: str) -> None:
        print(
            f"rank {rank} {why}; the job ends here (training.hang_timeout_seconds={self._timeout:g})", file=sys.stderr
        )
        if rank == self._rank:
            faulthandler.dump_traceback(file=sys.stderr)
        sys.stderr.flush()
        time.sleep(1)  # let the other ranks see the same and say so
        os._exit(EXIT_CODE)


def _beat(text: str, read: float) -> Beat:
    content = json.loads(text)
    return Beat(content["idle"], content["moves"], content["doing"], read)


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
        rank = min(beats, key=lambda r: (beats[r].moves, -beats[r].idle))
        return rank, f"made no progress for {timeout:g} s while {beats[rank].doing}"
    return None
