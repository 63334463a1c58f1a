"""Which data set each sample of a run comes from: weighted, deterministic, and resumable with other weights or data sets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypedDict


class MixtureState(TypedDict):
    """What a checkpoint keeps. Counts are of whole-run samples, so neither layout nor batch size matters.

    consumed: Samples taken from each data set since the run began.
    weights: Shares of the present mixture.
    since_change: Samples taken from each data set under the present weights.
    """

    consumed: dict[str, int]
    weights: dict[str, float]
    since_change: dict[str, int]


class Mixture:
    """Draws (data set, sample number) pairs. Each next sample comes from the set that is furthest behind its share.

    With i samples drawn and c_d from set d, the next one is from argmax_d of w_d * max(i, 1) - c_d, the first of equals:
    the rule of megatron-core's build_blending_indices, here one sample at a time so that any position can be resumed.

    Args:
        weights: Shares by data set name; normalised to sum to one.
        state: Of an earlier run. Equal weights go on with the same order; other weights start counting anew, but no data
            set repeats samples it has given.
    """

    def __init__(self, weights: Mapping[str, float], state: MixtureState | None = None) -> None:
        # Exact: sum() rounds otherwise from Python 3.12 on, and one last bit changes the order of samples.
        total = math.fsum(weights.values())
        self.weights = {name: weight / total for name, weight in weights.items()}
        self.consumed = dict.fromkeys(weights, 0)
        self.since_change = dict.fromkeys(weights, 0)
        if state is not None:
            # Sets that left the mixture keep their count: they may come back.
            self.consumed.update(state["consumed"])
            if state["weights"] == self.weights:
                self.since_change = dict(state["since_change"])

    def draw(self, samples: int) -> list[tuple[str, int]]:
        """The next samples, in order: data set and number of the sample in its stream."""
        names, drawn = list(self.weights), []
        count = [self.since_change[name] for name in names]
        weight = [self.weights[name] for name in names]
        position = sum(count)
        for _ in range(samples):
            at = max(position, 1)
            lag = [w * at - c for w, c in zip(weight, count, strict=True)]
            chosen = lag.index(max(lag))
            count[chosen] += 1
            position += 1
            drawn.append((names[chosen], self.consumed[names[chosen]]))
            self.consumed[names[chosen]] += 1
        self.since_change = dict(zip(names, count, strict=True))
        return drawn

    def state(self) -> MixtureState:
        """A copy for the checkpoint."""
        return {
            "consumed": dict(self.consumed),
            "weights": dict(self.weights),
            "since_change": dict(self.since_change),
        }
