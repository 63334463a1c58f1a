"""Divergence and forgetting: losses that rise, evaluation sets and benchmarks that fell behind their best."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from megatron_bielik.training.diagnosis.finding import Finding, Severity, graded
from megatron_bielik.training.diagnosis.history import FEWEST, Floats, History, evaluated, fifth

RISE, LARGE_RISE = 0.05, 0.5  # nats per token
STANDARD_ERRORS = 4.0
FORGOTTEN, MUCH_FORGOTTEN = 0.05, 0.25  # nats per token above the set's best
LOST_POINTS, MANY_LOST_POINTS = 5.0, 15.0  # of a benchmark's 100
LOST_REWARD, MUCH_LOST_REWARD = 0.1, 0.3  # share of the best mean reward


def divergence(history: History) -> Iterator[Finding]:
    """Whether the training loss ends above where it began, or rises over the last fifth of the run."""
    if history.method == "GRPO":
        return  # its loss is about 0 whatever the policy does
    steps, loss = history.series("loss")
    if len(loss) and not np.isfinite(loss[-min(5, len(loss)) :]).any():
        yield Finding(
            "divergence", Severity.PROBLEM, "the loss is not finite at the end", math.nan, None, (int(steps[-1]),),
            "go back to a checkpoint from before, with a lower rate",
        )  # fmt: skip
        return
    if len(loss) < FEWEST:
        return
    start, before, last = fifth(loss, 0), fifth(loss, 3), fifth(loss, 4)
    if min(len(start), len(before), len(last)) < 2:
        return
    advice = "lower optimizer.lr, or go back to a checkpoint from before the rise and look at the data since then"
    where = (int(steps[round(len(steps) * 4 / 5)]), int(steps[-1]))
    first = float(start[: max(2, len(start) // 4)].mean())
    above = float(last.mean()) - first
    rise, error = float(last.mean() - before.mean()), _standard_error(before, last)
    if above > max(RISE, STANDARD_ERRORS * error):
        message = (
            f"the loss ends at {last.mean():.3f}, above its start {first:.3f} (means of the last fifth and of the first "
            f"twentieth)"
        )
        yield Finding("divergence", Severity.PROBLEM, message, above, RISE, where, advice)
    elif rise > max(RISE, STANDARD_ERRORS * error):
        severity = graded(rise, RISE, LARGE_RISE)
        message = f"the loss rises: {last.mean():.3f} over the last fifth of the run, {before.mean():.3f} over the fifth before"
        yield Finding("divergence", severity, message, rise, max(RISE, STANDARD_ERRORS * error), where, advice)
    else:
        message = f"the loss went from {first:.3f} to {last.mean():.3f}"
        yield Finding("divergence", Severity.OK, message, rise, max(RISE, STANDARD_ERRORS * error))


def _standard_error(one: Floats, other: Floats) -> float:
    """Of the difference of two means, from neighbouring differences, so that a trend inside the parts does not count."""
    variances = [float(np.mean(np.diff(part) ** 2)) / 2 / len(part) for part in (one, other)]
    return math.sqrt(sum(variances))


def forgetting(history: History) -> Iterator[Finding]:
    """Each evaluation set's last figure against its best: losses, rewards, and scores of benchmarks."""
    for name, records in sorted(history.evals.items()):
        if history.method == "GRPO":
            yield from _reward_lost(name, *evaluated(records, "reward"))
        else:
            yield from _loss_risen(name, *evaluated(records, "loss"))
    for name, records in sorted(history.benchmarks.items()):
        steps, scores = evaluated(records, "score")
        known = np.flatnonzero(np.isfinite(scores))
        if len(known) > 1:
            best = int(known[np.argmax(scores[known])])
            lost = float(scores[best] - scores[known[-1]])
            message = f"{name} fell from {scores[best]:.1f} at step {steps[best]:,} to {scores[known[-1]]:.1f} points"
            yield _lost(name, message, lost, LOST_POINTS, MANY_LOST_POINTS, int(steps[best]), int(steps[known[-1]]))


def _loss_risen(name: str, steps: np.ndarray, loss: Floats) -> Iterator[Finding]:
    if len(loss) < 2:
        return
    if not math.isfinite(loss[-1]):
        message = f"the loss on {name} is not finite at step {steps[-1]:,}"
        yield Finding("forgetting", Severity.PROBLEM, message, math.nan, FORGOTTEN, (int(steps[-1]),), _MORE_OF_IT)
        return
    best = int(np.nanargmin(loss))
    message = f"the loss on {name} rose from {loss[best]:.3f} at step {steps[best]:,} to {loss[-1]:.3f}"
    risen = float(loss[-1] - loss[best])
    yield _lost(name, message, risen, FORGOTTEN, MUCH_FORGOTTEN, int(steps[best]), int(steps[-1]))


def _reward_lost(name: str, steps: np.ndarray, reward: Floats) -> Iterator[Finding]:
    known = np.flatnonzero(np.isfinite(reward))
    if len(known) < 2:
        return
    best, last = int(known[np.argmax(reward[known])]), int(known[-1])
    scale = abs(float(reward[best])) or 1.0
    message = f"the reward on {name} fell from {reward[best]:.3f} at step {steps[best]:,} to {reward[last]:.3f}"
    lost = float(reward[best] - reward[last]) / scale
    yield _lost(name, message, lost, LOST_REWARD, MUCH_LOST_REWARD, int(steps[best]), int(steps[last]))


_MORE_OF_IT = "a larger share of such text in the mixture, a lower rate, or the checkpoint from before"


def _lost(name: str, message: str, lost: float, some: float, much: float, best: int, last: int) -> Finding:
    severity = graded(lost, some, much)
    if severity is Severity.OK:
        message = f"{name} is within {lost:.3g} of its best, at step {best:,}"
        return Finding("forgetting", severity, message, lost, some, (last,))
    return Finding("forgetting", severity, message, lost, some, (best, last), _MORE_OF_IT)
