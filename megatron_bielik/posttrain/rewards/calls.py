"""The reward functions of a run in the form that TRL calls, with their failures counted over the ranks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from megatron_bielik.posttrain.errors import RunError
from megatron_bielik.posttrain.rewards.spec import RewardSpec
from megatron_bielik.posttrain.rewards.worker import Failure, RewardWorker


class TooManyFailures(RunError):
    """A reward function failed on too large a share of a step's calls; the message is one line."""


class RewardCalls:
    """Scores completions once for all functions; a failed call counts as 0.

    Args:
        specs: The functions.
        worker: Runs them.
        decode: Token ids of a completion to text, tags such as <tool_call> included.
        total_over_ranks: Sums numbers over the ranks.
        max_failed_share: Share of failed calls of one function at which it is given up.

    Attributes:
        failed: Failed calls of each function so far, over all ranks.
        on_failure: Called with the first failure of each function on this rank.
    """

    def __init__(
        self,
        specs: Sequence[RewardSpec],
        worker: RewardWorker,
        decode: Callable[[Sequence[int]], str],
        total_over_ranks: Callable[[list[float]], list[float]],
        max_failed_share: float,
    ) -> None:
        self._specs, self._worker, self._decode = specs, worker, decode
        self._total, self._max_failed_share = total_over_ranks, max_failed_share
        self._scored: tuple[Any, np.ndarray[Any, np.dtype[np.float64]]] | None = None
        self._named: set[str] = set()
        self.names = _distinct([spec.name for spec in specs])
        self.failed = dict.fromkeys(self.names, 0)
        self.on_failure: Callable[[Failure], None] = lambda failure: None

    def functions(self) -> list[Callable[..., list[float]]]:
        """One function for each spec, called (completion_ids=..., sample=..., **other) as TRL does."""
        return [self._function(number, name) for number, name in enumerate(self.names)]

    def _function(self, number: int, name: str) -> Callable[..., list[float]]:
        def reward(completion_ids: list[list[int]], sample: list[str], **_: Any) -> list[float]:
            if number == 0 or self._scored is None or self._scored[0] is not completion_ids:
                self._scored = (completion_ids, self.score(completion_ids, sample))
            return [float(value) for value in self._scored[1][number]]

        reward.__name__ = name
        return reward

    def score(self, completion_ids: list[list[int]], samples: list[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Values of every function, float64 [functions, completions].

        Raises:
            TooManyFailures: On every rank alike.
        """
        texts = [self._decode(ids) for ids in completion_ids]
        scores = self._worker.score(texts, [json.loads(sample) for sample in samples])
        for failure in scores.failures:
            if failure.function not in self._named:
                self._named.add(failure.function)
                self.on_failure(failure)
        here = Counter(int(row) for row in np.argwhere(np.isnan(scores.values))[:, 0])
        *failed, calls = self._total([*(here[number] for number in range(len(self._specs))), len(texts)])
        for spec, name, count in zip(self._specs, self.names, failed, strict=True):
            self.failed[name] += int(count)
            if count > self._max_failed_share * calls:
                why = next((one.reason for one in scores.failures if one.function == spec.name), "see other ranks")
                raise TooManyFailures(
                    f"reward {name} failed on {int(count)} of {int(calls)} answers of a step ({why}), more than "
                    f"rewards.max_failed_share {self._max_failed_share:g}; mend it or raise the share"
                )
        return np.nan_to_num(scores.values, nan=0.0)


def _distinct(names: list[str]) -> list[str]:
    """Names for the log: the function's alone, numbered where one comes twice."""
    short = [name.rpartition(":")[2] for name in names]
    return [
        name if short.count(name) == 1 else f"{name}_{short[:number].count(name) + 1}"
        for number, name in enumerate(short)
    ]
