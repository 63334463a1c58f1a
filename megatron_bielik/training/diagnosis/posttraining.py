"""What goes wrong in DPO and GRPO: chosen answers that lose, a policy that leaves its reference, rewards that teach nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator

from megatron_bielik.training.diagnosis.finding import Finding, Severity, graded
from megatron_bielik.training.diagnosis.history import History, fifth

CHOSEN_LOSES, CHOSEN_LOSES_MUCH = 0.5, 10.0  # nats per chosen answer below the reference
ACCURACY = 0.5  # of telling chosen from rejected answers: guessing
KL, LARGE_KL = 0.5, 2.0  # nats per token, where loss.kl_limit is not set
NEAR_LIMIT = 0.5  # share of loss.kl_limit
SILENT_GROUPS, MANY_SILENT = 0.8, 0.95  # share of groups whose answers all have one reward
CUT_OFF, MANY_CUT_OFF = 0.3, 0.7  # share of answers that reach sampling.max_completion_tokens
REWARD_LOST, MUCH_REWARD_LOST = 0.1, 0.3  # share of the best fifth's mean reward
FEWEST = 10  # logged steps for means of fifths


def preferences(history: History) -> Iterator[Finding]:
    """DPO-Positive: log-ratio of chosen answers, accuracy."""
    if history.method != "DPO":
        return
    if (chosen := _last_mean(history, "chosen_log_ratio")) is not None:
        message = f"chosen answers' log-probability against the reference: {chosen:+.3g} nats over the last fifth"
        severity = graded(-chosen, CHOSEN_LOSES, CHOSEN_LOSES_MUCH)
        advice = "" if severity is Severity.OK else "raise loss.positive, lower optimizer.lr, or take fewer steps"
        yield Finding("chosen answers", severity, message, -chosen, CHOSEN_LOSES, (history.last_step,), advice)
    if (accuracy := _last_mean(history, "accuracy")) is not None:
        message = f"chosen answers win in {accuracy:.0%} of the pairs over the last fifth"
        severity = Severity.OK if accuracy > ACCURACY else Severity.WARNING
        advice = "" if severity is Severity.OK else "more steps, a higher rate, or pairs that differ more"
        yield Finding("preference accuracy", severity, message, accuracy, ACCURACY, (history.last_step,), advice)


def reinforcement(history: History) -> Iterator[Finding]:
    """GRPO: divergence from the reference, course of the reward, groups without a signal, answers cut off, failed rewards."""
    if history.method != "GRPO":
        return
    yield from _divergence(history)
    yield from _reward(history)
    for name, some, many, words, advice in (
        ("frac_reward_zero_std", SILENT_GROUPS, MANY_SILENT, "groups whose answers all get one reward teach nothing",
         "easier or harder problems, a larger sampling.group_size, or a reward with steps in between"),
        ("completions/clipped_ratio", CUT_OFF, MANY_CUT_OFF, "answers cut off at sampling.max_completion_tokens",
         "a larger sampling.max_completion_tokens, or a start that ends its answers"),
    ):  # fmt: skip
        if (share := _last_mean(history, name)) is not None:
            severity = graded(share, some, many)
            message = f"{words}: {share:.0%} over the last fifth"
            advice = "" if severity is Severity.OK else advice
            yield Finding("learning signal", severity, message, share, some, (history.last_step,), advice)
    _, failures = history.series("reward_failures")
    if len(failures) and failures[-1] > 0:
        message = f"reward functions failed {failures[-1]:.0f} times, which counts as 0"
        advice = "the log's reward events say why"
        yield Finding("learning signal", Severity.WARNING, message, float(failures[-1]), 0.0, (), advice)


def _divergence(history: History) -> Iterator[Finding]:
    steps, kl = history.series("kl")
    if not len(kl):
        return
    limit = history.option("loss", "kl_limit")
    some, much = (KL, LARGE_KL) if limit is None else (NEAR_LIMIT * float(limit), float(limit))
    worst = int(max(range(len(kl)), key=lambda at: kl[at] if math.isfinite(kl[at]) else math.inf))
    severity = graded(float(kl[worst]), some, much)
    message = f"largest divergence from the reference: {kl[worst]:.3g} nats per token at step {steps[worst]:,}"
    advice = "lower optimizer.lr, raise loss.kl_coefficient, or look at what is rewarded"
    advice = "" if severity is Severity.OK else advice
    yield Finding("divergence", severity, message, float(kl[worst]), some, (int(steps[worst]),), advice)


def _reward(history: History) -> Iterator[Finding]:
    _, reward = history.series("reward")
    if len(reward) < FEWEST:
        return
    means = [float(part.mean()) for number in range(5) if len(part := fifth(reward, number))]
    best, last = max(means), means[-1]
    lost = (best - last) / (abs(best) or 1.0)
    severity = graded(lost, REWARD_LOST, MUCH_REWARD_LOST)
    message = "mean reward by fifths of the run: " + ", ".join(f"{mean:.3f}" for mean in means)
    if severity is Severity.OK and best <= 0:
        severity, advice = (
            Severity.WARNING,
            "no answer is ever rewarded: easier problems, or a start that knows the form",
        )
    else:
        advice = "" if severity is Severity.OK else "lower optimizer.lr; compare the divergence at the same steps"
    yield Finding("reward", severity, message, lost, REWARD_LOST, (history.last_step,), advice)


def _last_mean(history: History, name: str) -> float | None:
    """Mean of a figure over the last fifth of the run; none where it was not logged often enough."""
    _, values = history.series(name)
    last = fifth(values, 4)
    return float(last.mean()) if len(values) >= FEWEST and len(last) else None
