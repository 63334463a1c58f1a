"""Drift of weight norms over checkpoints: growth by group, tensors that outgrow their siblings, frozen ones that moved."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from megatron_bielik.checkpoint_files import CheckpointError, read_description
from megatron_bielik.training.diagnosis.finding import Finding, Severity, graded
from megatron_bielik.training.diagnosis.history import History
from megatron_bielik.training.diagnosis.weight_figures import Figures, chosen, group_norms, measured, run_checkpoints
from megatron_bielik.training.parameter_table import parameter_table, trainable_names

GROWTH, EXPLOSION = 1.5, 4.0  # a group's norm from one checkpoint to the next
GROWTH_PER_1000 = 0.25  # of a group's norm, where the checkpoints span 1000 steps or more
OUTGROWN, FAR_OUTGROWN = 1.5, 4.0  # a matrix's growth over the median of the same matrix in all layers
FEWEST_LAYERS = 4
_LESS_GROWTH = "a lower rate, or more optimizer.weight_decay; look at the loss at these steps"
_LAYER = re.compile(r"(?<=layers\.)\d+(?=\.)")


def drift(
    history: History, most: int, progress: Callable[[int, int], None] = lambda done, total: None
) -> Iterator[Finding]:
    """Findings from the checkpoints of a run.

    Args:
        history: Of the run.
        most: Newest checkpoints looked at, the oldest one besides; 0 reads none.
        progress: Called with tensors read and tensors in all.
    """
    if not most:
        return
    places = chosen(run_checkpoints(history), most)
    if not places:
        yield Finding("weight norms", Severity.NOTE, "no checkpoint is there to look at")
        return
    tables: dict[int, Figures] = {}
    for number, (step, path) in enumerate(places.items()):
        try:
            tables[step] = measured(path, partial(_tell, progress, number, len(places)))
        except CheckpointError as error:
            yield Finding("checkpoints", Severity.PROBLEM, str(error), None, None, (step,), "do not resume from it")
    yield from _not_finite(tables)
    yield from _growth(tables)
    yield from _outgrown(tables)
    yield from _moved(history, places, tables)


def _tell(progress: Callable[[int, int], None], number: int, places: int, done: int, total: int) -> None:
    """Progress over all checkpoints, from that within one."""
    progress(number * total + done, places * total)


def _not_finite(tables: Mapping[int, Figures]) -> Iterator[Finding]:
    for step, table in tables.items():
        bad = [name for name, figures in table.items() if figures.not_finite]
        if bad:
            count = sum(table[name].not_finite for name in bad)
            message = f"step {step:,}: {count:,} weights are not finite, in {len(bad)} tensors, the first {bad[0]}"
            advice = "write an earlier checkpoint's name into checkpoints/latest"
            yield Finding("weight norms", Severity.PROBLEM, message, float(count), 0.0, (step,), advice)


def _growth(tables: Mapping[int, Figures]) -> Iterator[Finding]:
    """Each group's norm from checkpoint to checkpoint."""
    if not tables:
        return
    steps = tuple(tables)
    norms = {step: group_norms(table) for step, table in tables.items()}
    for group in norms[steps[-1]]:
        values = [norms[step].get(group, math.nan) for step in steps]
        listed = ", ".join(f"{value:.4g} (step {step:,})" for step, value in zip(steps, values, strict=True))
        message = f"{group}: {listed}"
        pairs = [after / before for before, after in pairwise(values) if before > 0]
        if not pairs:
            yield Finding("weight norms", Severity.OK, message, values[-1])
            continue
        largest = max(pairs)
        severity, value, limit = graded(largest, GROWTH, EXPLOSION), largest, GROWTH
        span = steps[-1] - steps[0]
        if span >= 1000 and values[0] > 0:
            per_1000 = (values[-1] / values[0]) ** (1000 / span) - 1
            message += f"; {per_1000:+.1%} per 1,000 steps"
            if severity is Severity.OK and per_1000 > GROWTH_PER_1000:
                severity, value, limit = Severity.WARNING, per_1000, GROWTH_PER_1000
        else:
            message += f"; at most {largest:.3f} times from one to the next"
        advice = "" if severity is Severity.OK else _LESS_GROWTH
        yield Finding("weight norms", severity, message, value, limit, steps, advice)


def _outgrown(tables: Mapping[int, Figures]) -> Iterator[Finding]:
    """Matrices that grew far more between the first and the last checkpoint than the same ones of other layers."""
    if len(tables) < 2:
        return
    steps = list(tables)
    first, last = tables[steps[0]], tables[steps[-1]]
    kinds: dict[str, dict[str, float]] = {}
    for name, figures in last.items():
        if _LAYER.search(name) and figures.matrix and name in first and first[name].squares > 0:
            growth = math.sqrt(figures.squares / first[name].squares)
            kinds.setdefault(_LAYER.sub("*", name), {})[name] = growth
    for growths in kinds.values():
        if len(growths) < FEWEST_LAYERS:
            continue
        median = float(np.median(list(growths.values())))
        name = max(growths, key=lambda one: growths[one])
        severity = graded(growths[name] / median, OUTGROWN, FAR_OUTGROWN)
        if severity > Severity.OK:
            message = (
                f"{name} grew {growths[name]:.2f} times from step {steps[0]:,} to {steps[-1]:,}, the same matrix of the other "
                f"layers {median:.2f} times (median)"
            )
            advice = "look at this layer: a bad copy, an activation that explodes, fp8 that does not fit"
            where = (steps[0], steps[-1])
            yield Finding("weight norms", severity, message, growths[name] / median, OUTGROWN, where, advice)


def _moved(history: History, places: Mapping[int, Path], tables: Mapping[int, Figures]) -> Iterator[Finding]:
    """Parameters that training.trainable freezes must be the same to the bit in checkpoints up to the unfreezing."""
    patterns: Sequence[str] = history.option("training", "trainable") or ()
    if history.method != "pretraining" or not patterns:
        return
    until = history.option("training", "unfreeze_at_step")
    steps = [step for step in tables if until is None or step <= until]
    if len(steps) < 2:
        return
    table = parameter_table(read_description(places[steps[0]])[0])
    frozen = {parameter.name for parameter in table} - trainable_names(table, patterns)
    first, last = tables[steps[0]], tables[steps[-1]]
    moved = sorted(
        name for name in frozen if name in first and name in last and first[name].digest != last[name].digest
    )
    where = (steps[0], steps[-1])
    if moved:
        message = f"{len(moved)} frozen parameters changed from step {steps[0]:,} to {steps[-1]:,}, first {moved[0]}"
        advice = "were training.trainable or the weights changed between the two? else report it: it is a bug"
        yield Finding("frozen weights", Severity.PROBLEM, message, float(len(moved)), 0.0, where, advice)
    else:
        message = f"{len(frozen)} frozen parameters are the same to the bit at steps {steps[0]:,} and {steps[-1]:,}"
        yield Finding("frozen weights", Severity.OK, message, 0.0, 0.0, where)
