"""Learning rate as a pure function of the step: warm-up, then cosine, linear, WSD or constant."""

from __future__ import annotations

import math

from megatron_bielik.config import OptimizerConfig, ScheduleConfig


def learning_rate(step: int, optimizer: OptimizerConfig, schedule: ScheduleConfig, total_steps: int) -> float:
    """Learning rate of a step, the first step being 1.

    warm-up: lr * step / warmup_steps.
    cosine, linear: from lr at the end of the warm-up to min_lr at decay_steps, min_lr after.
    wsd: lr until cooldown_steps before decay_steps, then min_lr + (lr - min_lr) * (1 - sqrt(progress))
         (Haegele et al., 2024).
    constant: lr.
    """
    peak, floor = optimizer.lr, optimizer.min_lr
    if step <= schedule.warmup_steps:
        return peak * step / schedule.warmup_steps
    if schedule.decay == "constant":
        return peak
    end = schedule.decay_steps or total_steps
    start = end - schedule.cooldown_steps if schedule.decay == "wsd" else schedule.warmup_steps
    if step <= start:
        return peak
    if step >= end:
        return floor
    progress = (step - start) / (end - start)
    share = {
        "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
        "linear": 1 - progress,
        "wsd": 1 - math.sqrt(progress),
    }[schedule.decay]
    return floor + (peak - floor) * share
