"""Reward functions run in a child process, where one that hangs or crashes costs a single item and not the training run."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import struct
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from megatron_bielik.data.processes import follow_parent
from megatron_bielik.posttrain.rewards import Reward, check_options, find_reward
from megatron_bielik.posttrain.rewards.spec import RewardError, RewardSpec

Floats = NDArray[np.float64]
_START_SECONDS = 120.0
_READY, _VALUE, _FAILED = b"r", b"v", b"f"


class Failure(NamedTuple):
    """A call that gave no value.

    Args:
        function: Name of the reward, as in its spec.
        item: Position of the completion.
        reason: One line.
    """

    function: str
    item: int
    reason: str


class Scores(NamedTuple):
    """What the rewards gave.

    Args:
        values: float64 [functions, completions]; NaN where a call failed.
        failures: The calls that failed, by function, then by completion.
    """

    values: Floats
    failures: list[Failure]


def combine(scores: Scores, specs: Sequence[RewardSpec]) -> Floats:
    """Sum of weight * value over the functions, float64 [completions]; a failed call counts 0.

    Raises:
        ValueError: Scores of another number of functions.
    """
    if len(specs) != len(scores.values):
        raise ValueError(f"scores are of {len(scores.values)} functions, the specs of {len(specs)}")
    weights = np.array([spec.weight for spec in specs], dtype=np.float64)
    rewards: Floats = weights @ np.where(np.isnan(scores.values), 0.0, scores.values)
    return rewards


class RewardWorker:
    """Runs reward functions in one child process, which is killed and started again when a call hangs or crashes.

    Not for several threads at a time. The functions are imported in the child; a script that starts one needs the usual
    `if __name__ == "__main__":`, because the child imports the script, too.

    Args:
        specs: The rewards; a name may come more than once, with other options.
        timeout_seconds: Wall-clock time for one call of one function.

    Raises:
        RewardError: No specs, a timeout that is not positive, an unknown reward or option, or a child that does not start.
    """

    def __init__(self, specs: Sequence[RewardSpec], timeout_seconds: float = 10.0) -> None:
        if not specs:
            raise RewardError("no rewards were given, needs at least one")
        if not (math.isfinite(timeout_seconds) and timeout_seconds > 0):
            raise RewardError(f"timeout of rewards is {timeout_seconds} seconds, needs a positive number")
        self.specs = tuple(specs)
        self.timeout_seconds = timeout_seconds
        self.restarts = 0
        self._process: Any = None
        self._connection: Connection | None = None
        self._start()

    def __enter__(self) -> RewardWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child. A second time does nothing; the next score() starts a child again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            self._kill()
            self._process.join()
            self._process.close()
            self._process = None

    def score(self, completions: Sequence[str], samples: Sequence[Mapping[str, Any]]) -> Scores:
        """Call every function on every completion with its sample.

        Raises:
            ValueError: Not as many samples as completions.
            RewardError: The child could not be started again.
        """
        if len(completions) != len(samples):
            raise ValueError(f"{len(completions)} completions have {len(samples)} samples, needs one for each")
        size = len(completions)
        values = np.full(len(self.specs) * size, np.nan)
        failures: list[Failure] = []
        done, lost = 0, 0
        while done < len(values):
            if self._process is None or not self._process.is_alive():
                self.close()
                self._start()
            # Sent anew after a crash: the child takes up at the call after the one that was lost.
            if self._take_up((done, list(completions), [dict(sample) for sample in samples])):
                lost = 0
                while done < len(values) and (message := self._receive(self.timeout_seconds)):
                    if message[:1] == _VALUE:
                        values[done] = struct.unpack_from("d", message, 1)[0]
                    else:
                        failures.append(self._failure(done, size, message[1:].decode("utf-8", "replace")))
                    done += 1
                if done == len(values):
                    break
                failures.append(self._failure(done, size, self._end_of_child(message)))
                done += 1
            else:
                # It ended while it had nothing to do, which is no item's fault.
                lost += 1
                if lost == 3:
                    raise RewardError(f"the reward process ended {lost} times before its first call")
            self.close()
            self.restarts += 1
        return Scores(values.reshape(len(self.specs), size), failures)

    def _failure(self, call: int, size: int, reason: str) -> Failure:
        function, index = divmod(call, size)
        return Failure(self.specs[function].name, index, reason)

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_work, args=(theirs, self.specs, self.timeout_seconds), name="rewards", daemon=True
        )
        self._process.start()
        theirs.close()
        message = self._receive(_START_SECONDS)
        if not message or message[:1] != _READY:
            reason = (
                message[1:].decode() if message else f"the reward process did not start: {self._end_of_child(message)}"
            )
            self.close()
            raise RewardError(reason)

    def _take_up(self, batch: object) -> bool:
        """Send a batch; whether the child has begun with it."""
        assert self._connection is not None
        try:
            self._connection.send(batch)
        except OSError:
            return False
        return self._receive(_START_SECONDS) == _READY

    def _receive(self, seconds: float) -> bytes | None:
        """The next message; empty when it takes longer, None when the child has ended."""
        assert self._connection is not None
        try:
            return self._connection.recv_bytes() if self._connection.poll(seconds) else b""
        except (EOFError, OSError):
            return None

    def _end_of_child(self, message: bytes | None) -> str:
        """Why the child answers no more, from what _receive gave."""
        if message is not None:
            return f"took more than {self.timeout_seconds:g} seconds"
        # The pipe is closed a moment before the process is gone.
        self._process.join(5)
        code = self._process.exitcode
        if code is None:
            return "closed the pipe of its process"
        if code < 0:
            return f"ended the process by signal {signal.Signals(-code).name}"
        return f"ended the process with exit code {code}"

    def _kill(self) -> None:
        # The child leads a group, so that what a reward has started goes with it.
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            self._process.kill()


def _work(connection: Connection, specs: Sequence[RewardSpec], timeout_seconds: float) -> None:
    """The child: imports the functions, then answers each batch with one message for each call."""
    os.setsid()
    follow_parent()
    functions: list[Reward] = []
    try:
        for spec in specs:
            functions.append(find_reward(spec.name))
            check_options(spec, functions[-1])
    except RewardError as error:
        connection.send_bytes(_FAILED + str(error).encode("utf-8", "replace"))
        return
    cpu_seconds = (2 + (os.cpu_count() or 1)) * timeout_seconds
    connection.send_bytes(_READY)
    while True:
        try:
            start, completions, samples = connection.recv()
        except EOFError:
            return
        connection.send_bytes(_READY)
        for call in range(start, len(specs) * len(completions)):
            function, index = divmod(call, len(completions))
            # follow_parent needs the interpreter's lock; a call that keeps it would outlive a parent that was killed. The
            # default of SIGVTALRM ends the process without asking Python, after more time than all cores have in a call.
            signal.setitimer(signal.ITIMER_VIRTUAL, cpu_seconds)
            message = _call(functions[function], specs[function].options, completions[index], samples[index])
            connection.send_bytes(message)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def _call(function: Reward, options: Mapping[str, float], completion: str, sample: Mapping[str, Any]) -> bytes:
    try:
        value = function(completion, sample, **options)
        if not isinstance(value, Real | np.bool_):
            return _FAILED + f"returned {type(value).__name__}, no number".encode()
        number = float(value)
        if not math.isfinite(number):
            return _FAILED + f"returned {number}".encode()
        return _VALUE + struct.pack("d", number)
    except BaseException as error:  # sys.exit() too: nothing that a reward does may end the run
        try:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        except BaseException:
            reason = type(error).__name__
        return _FAILED + reason.encode("utf-8", "replace")
