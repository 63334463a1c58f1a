"""Gradient noise, and the signs of too high a learning rate, from the logged gradient norms and losses."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from megatron_bielik.training.diagnosis.finding import Finding, Severity, first_steps, graded
from megatron_bielik.training.diagnosis.history import FEWEST, Floats, History, fifth

NOISE, MUCH_NOISE = 1.0, 4.0  # variance of the norm over its squared mean, last fifth
OUTLIER = 10.0  # times the median of the WINDOW norms before
OUTLIERS, MANY_OUTLIERS = 0.0, 0.01  # share of logged steps
WINDOW = 20
CLIPPED = 0.5  # share of the steps in the second half
RISEN = 2.0  # median norm of the last fifth over that of the second fifth
SPIKES_PER_1000, SIGNS = 3.0, 1


def gradient_noise(history: History) -> Iterator[Finding]:
    """How much the gradient norm scatters late in the run, and single norms far above the ones before."""
    steps, norms = history.series("grad_norm")
    if len(norms) < FEWEST:
        return
    late = fifth(norms, 4)
    mean = float(late.mean()) if len(late) else 0.0
    if len(late) < 2 or mean == 0:
        return
    noise = float(late.var()) / mean**2
    parts = [
        f"gradient norm of the last fifth: mean {mean:.3g}, standard deviation {late.std():.3g}, largest {late.max():.3g}"
    ]
    clip = float(history.option("optimizer", "clip_grad", 0.0) or 0.0)
    if clip > 0:
        parts.append(f"{clip_share(norms, clip):.0%} of the second half's steps clipped at {clip:g}")
    _, losses = history.series("loss")
    if len(scatter := fifth(losses, 4)) > 2:
        parts.append(f"loss noise {np.sqrt(np.mean(np.diff(scatter) ** 2) / 2):.3g} nats from step to step")
    severity = graded(noise, NOISE, MUCH_NOISE)
    advice = "" if severity is Severity.OK else "a larger training.global_batch_size, a lower rate, or cleaner data"
    yield Finding("gradient noise", severity, "; ".join(parts), noise, NOISE, (), advice)
    yield from _outliers(steps, norms)


def clip_share(norms: Floats, limit: float) -> float:
    """Share of the second half's logged steps whose norm was above the limit."""
    late = norms[len(norms) // 2 :]
    late = late[np.isfinite(late)]
    return float((late > limit).mean()) if len(late) else 0.0


def _outliers(steps: np.ndarray, norms: Floats) -> Iterator[Finding]:
    far = [at for at in range(WINDOW, len(norms)) if norms[at] > OUTLIER * np.nanmedian(norms[at - WINDOW : at]) > 0]
    if not far:
        return
    where = tuple(int(steps[at]) for at in far)
    share = len(far) / len(norms)
    worst = max(far, key=lambda at: norms[at])
    message = (
        f"{len(far)} gradient norms above {OUTLIER:g} times the median of the {WINDOW} logged before, the largest "
        f"{norms[worst]:.3g} at step {steps[worst]:,}; {first_steps(where)}"
    )
    advice = "look at the data of these steps; optimizer.clip_grad bounds what they do"
    yield Finding("gradient noise", graded(share, OUTLIERS, MANY_OUTLIERS), message, share, OUTLIERS, where, advice)


def rate_too_high(history: History, rising: bool) -> Iterator[Finding]:
    """Several signs together that the learning rate is too high; one alone may have another cause.

    Args:
        rising: Whether the loss rises or ends above its start.
    """
    _, norms = history.series("grad_norm")
    if len(norms) < FEWEST:
        return
    signs = ["the loss rises"] if rising else []
    upsets = len(history.events_of("spike")) + len(history.events_of("skip"))
    if 1000 * upsets / max(history.last_step, 1) > SPIKES_PER_1000:
        signs.append(f"{upsets} spikes and skipped steps in {history.last_step:,}")
    clip = float(history.option("optimizer", "clip_grad", 0.0) or 0.0)
    if clip > 0 and (share := clip_share(norms, clip)) > CLIPPED:
        signs.append(f"{share:.0%} of the second half's steps clipped")
    early, late = fifth(norms, 1), fifth(norms, 4)
    if len(early) and len(late) and np.median(early) > 0:
        risen = float(np.median(late) / np.median(early))
        if risen > RISEN:
            signs.append(f"gradient norm {risen:.1f} times that of the second fifth")
    if len(signs) > SIGNS:
        severity = Severity.PROBLEM if rising else Severity.WARNING
        message = f"signs of too high a learning rate: {'; '.join(signs)}"
        advice = "halve optimizer.lr, or lengthen schedule.warmup_steps"
        yield Finding("learning rate", severity, message, len(signs), SIGNS, (), advice)
