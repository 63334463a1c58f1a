"""All checks over one run, the worst findings first."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from megatron_bielik.training.diagnosis import gradients, posttraining, spikes, stalls, trend, weights
from megatron_bielik.training.diagnosis.finding import Finding, Severity
from megatron_bielik.training.diagnosis.history import History, read_history


@dataclass(frozen=True)
class Diagnosis:
    """What was found, sorted from the worst to what is fine; history is what it was found in."""

    history: History
    findings: tuple[Finding, ...]

    @property
    def wrong(self) -> tuple[Finding, ...]:
        """Warnings and problems."""
        return tuple(one for one in self.findings if one.severity >= Severity.WARNING)


def diagnose(
    run: Path,
    documents: int = 5,
    checkpoints: int = 4,
    now: float | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Diagnosis:
    """Look at a run's folder.

    Args:
        run: Folder of a pretraining or post-training run, or its log.jsonl.
        documents: How many to name for spikes and skipped steps; 0 reads no data.
        checkpoints: Newest ones to read besides the oldest; 0 reads none.
        now: Unix seconds, for a run that fell silent; the clock's by default.
        progress: Called with tensors read and in all.

    Raises:
        FileNotFoundError: No log.
        ValueError: A log that cannot be read.
    """
    history = read_history(run)
    diverging = list(trend.divergence(history))
    rising = any(one.severity >= Severity.WARNING for one in diverging)
    findings = [
        *stalls.ending(history, time.time() if now is None else now),
        *diverging,
        *spikes.spikes(history, documents),
        *spikes.skipped(history, documents),
        *gradients.rate_too_high(history, rising),
        *gradients.gradient_noise(history),
        *trend.forgetting(history),
        *posttraining.preferences(history),
        *posttraining.reinforcement(history),
        *stalls.slow_steps(history),
        *stalls.pauses(history),
        *stalls.saving_and_evaluating(history),
        *stalls.watchdog_lines(history.folder),
        *stalls.stragglers(history),
        *weights.drift(history, checkpoints, progress),
    ]
    return Diagnosis(history, tuple(sorted(findings, key=lambda one: -one.severity)))
