"""Where a run's time went: slow steps, pauses, long checkpoints and evaluations, a slow rank, and how the run ended."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from megatron_bielik.training.diagnosis.finding import Finding, Severity, first_steps, graded
from megatron_bielik.training.diagnosis.history import FEWEST, History

SLOW = 3.0  # times the median duration of a step
TIME_LOST, MUCH_TIME_LOST = 0.05, 0.25  # share of the time in steps
PAUSE_SECONDS, PAUSE_STEPS = 60.0, 20.0  # a gap between records counts from the larger one on; in median steps
SHARE_OF_SAVING, SHARE_OF_EVALUATING = 0.05, 0.2  # of the run's time
SILENT_SECONDS, SILENT_GAPS = 600.0, 20.0  # a run that logs nothing for the longer one is taken for dead
LAGGING, FAR_LAGGING = 1.2, 1.5  # slowest rank's time over the median of the other ranks of its stage
OFTEN = 0.5  # share of the records in which the same rank was the slowest
_CLEAN_STOPS = ("the time limit was reached", "SIGTERM was received", "SIGUSR1 was received")
_SAVED = re.compile(r", ([\d.]+) s of the loop")
_WATCHDOG = re.compile(r"rank \d+ (?:made no progress|gave no sign of life|ends: its launcher is gone).*")
_OUTPUTS = ("*.out", "*.err", "*.log", "*.txt")


def slow_steps(history: History) -> Iterator[Finding]:
    """Logged steps far slower than the median, and the share of the time that they cost."""
    steps, seconds = history.series("step_seconds")
    if len(seconds) < FEWEST:
        return
    seconds = seconds[1:]  # the first ones compile and warm up
    steps = steps[1:]
    median = float(np.nanmedian(seconds))
    slow = np.flatnonzero(seconds > SLOW * median)
    lost = float((seconds[slow] - median).sum() / np.nansum(seconds))
    where = tuple(int(step) for step in steps[slow])
    message = f"a step takes {median:.3g} s (median)"
    advice = ""
    severity = graded(lost, TIME_LOST, MUCH_TIME_LOST)
    if len(slow):
        message += (
            f"; {len(slow)} logged figures are above {SLOW:g} times that, the longest {seconds[slow].max():.3g} s: "
            f"{lost:.0%} of the time in steps; {first_steps(where)}"
        )
        severity = max(severity, Severity.NOTE)
        advice = "slow storage under the shards, other jobs on the node, or a GPU that throttles"
    yield Finding("stalls", severity, message, lost, TIME_LOST, where, advice)


def pauses(history: History) -> Iterator[Finding]:
    """Gaps between records beyond what the steps between them take; those across a restart are down time."""
    _, seconds = history.series("step_seconds")
    if not len(seconds):
        return
    median = float(np.nanmedian(seconds))
    limit = max(PAUSE_SECONDS, PAUSE_STEPS * median)
    gaps: list[tuple[int, float]] = []
    down = 0.0
    known = [one for one in history.times if math.isfinite(one[2])]
    saved = {event.step: _loop_seconds(event.message) for event in history.events_of("checkpoint")}
    for (_, step, before), (kind, next_step, after) in pairwise(known):
        extra = after - before - max(0, next_step - step) * median - saved.get(next_step, 0.0)
        if kind == "run":
            down += max(0.0, after - before)
        elif extra > limit:
            gaps.append((next_step, extra))
    if gaps:
        where = tuple(step for step, _ in gaps)
        longest = max(gaps, key=lambda one: one[1])
        total = sum(extra for _, extra in gaps)
        message = (
            f"{len(gaps)} pauses, {total:,.0f} s in all, the longest {longest[1]:,.0f} s before step {longest[0]:,}; "
            f"{first_steps(where)}"
        )
        advice = (
            "something waited: storage, a rank, an evaluation; the watchdog's lines on stderr name a rank that hung"
        )
        yield Finding("stalls", Severity.WARNING, message, longest[1], limit, where, advice)
    if len(history.starts) > 1:
        where = tuple(start.step for start in history.starts[1:])
        message = f"started {len(history.starts)} times, {down:,.0f} s between; resumed after {first_steps(where)}"
        yield Finding("stalls", Severity.NOTE, message, down, None, where)


def saving_and_evaluating(history: History) -> Iterator[Finding]:
    """Share of the run's time that checkpoints held up the loop, and that evaluations took."""
    known = [one for one in history.times if math.isfinite(one[2])]
    if len(known) < 2 or len(history.train) < FEWEST:
        return
    whole = known[-1][2] - known[0][2]
    if whole <= 0:
        return
    saving = sum(_loop_seconds(event.message) for event in history.events_of("checkpoint"))
    if saving / whole > SHARE_OF_SAVING:
        message = f"checkpoints held up the loop for {saving:,.1f} s, {saving / whole:.0%} of the time"
        advice = "checkpoint.async_save, or a larger checkpoint.save_interval"
        yield Finding("stalls", Severity.WARNING, message, saving / whole, SHARE_OF_SAVING, (), advice)
    evaluating = 0.0
    for (_, _, before), (kind, _, after) in pairwise(known):
        if kind == "eval":  # from the record before, which the evaluation follows at once
            evaluating += after - before
    if evaluating / whole > SHARE_OF_EVALUATING:
        message = f"evaluations took {evaluating:,.1f} s, {evaluating / whole:.0%} of the time"
        advice = "a larger training.eval_interval, or fewer training.eval_batches"
        yield Finding("stalls", Severity.WARNING, message, evaluating / whole, SHARE_OF_EVALUATING, (), advice)


def _loop_seconds(message: str) -> float:
    found = _SAVED.search(message)
    return float(found[1]) if found else 0.0


def ending(history: History, now: float) -> Iterator[Finding]:
    """Whether the run came to its last step, was stopped, failed, or fell silent.

    Args:
        now: Unix seconds.
    """
    total, last = history.total_steps, history.last_step
    where = (last,)
    done = bool(history.events_of("final")) or (total is not None and last >= total)
    after_start = max((n for n, one in enumerate(history.times) if one[0] == "run"), default=-1)
    stops = [
        event for event in history.events_of("stop") if not history.starts or _after(history, event.step, after_start)
    ]
    if stops and not stops[-1].message.endswith(_CLEAN_STOPS):
        advice = "mend what it names; the same command goes on from the newest checkpoint"
        yield Finding("ending", Severity.PROBLEM, f"ended by a failure: {stops[-1].message}", None, None, where, advice)
        return
    if done:
        yield Finding("ending", Severity.OK, f"came to its last step, {last:,}")
        return
    of = f"step {last:,}" + (f" of {total:,}" if total is not None else "")
    if stops:
        advice = "the same command goes on from there"
        yield Finding("ending", Severity.NOTE, f"stopped at {of}: {stops[-1].message}", None, None, where, advice)
        return
    times = [one[2] for one in history.times if math.isfinite(one[2])]
    if not times:
        return
    gaps = np.diff(times)
    limit = max(SILENT_SECONDS, SILENT_GAPS * float(np.median(gaps)) if len(gaps) else 0.0)
    silent = now - times[-1]
    if silent > limit:
        message = f"ended at {of} without a word, {silent:,.0f} s ago: it was killed, lost a node, or hangs"
        advice = "read the end of its stderr; the same command goes on from the newest checkpoint"
        yield Finding("ending", Severity.WARNING, message, silent, limit, where, advice)
    else:
        yield Finding("ending", Severity.OK, f"at {of}, last record {max(silent, 0):,.0f} s ago", silent, limit)


def _after(history: History, step: int, start: int) -> bool:
    """Whether an event of a step belongs to the last process; those of earlier ones are history."""
    return step >= (history.times[start][1] if start >= 0 else 0) and any(
        kind == "event" and at == step for kind, at, _ in history.times[start + 1 :]
    )


def watchdog_lines(folder: Path) -> Iterator[Finding]:
    """What the watchdog said of a rank, in text files of the run's folder; its stderr is not part of the log."""
    for pattern in _OUTPUTS:
        for path in sorted(folder.glob(pattern)):
            with path.open("rb") as stream:
                stream.seek(max(0, path.stat().st_size - (1 << 20)))
                text = stream.read().decode(errors="replace")
            if found := _WATCHDOG.findall(text):
                advice = "the tracebacks below that line show where the rank was"
                message = f"{path.name}: {found[-1]}"
                yield Finding("stalls", Severity.PROBLEM, message, None, None, (), advice)


def stragglers(history: History) -> Iterator[Finding]:
    """Whether one rank's forward passes keep taking longer than those of the other ranks of its pipeline stage."""
    records = [record for record in history.train if record.get("slowest_rank") is not None]
    if len(records) < FEWEST:
        return
    records = records[1:]
    ratios = np.array([record["slowest_rank_seconds"] / max(record["median_rank_seconds"], 1e-9) for record in records])
    ((rank, times),) = Counter(int(record["slowest_rank"]) for record in records).most_common(1)
    ratio, share = float(np.median(ratios)), times / len(records)
    if share <= OFTEN:
        message = f"no rank is the slowest all the time (rank {rank} in {share:.0%} of the records)"
        yield Finding("stragglers", Severity.OK, message, ratio, LAGGING)
        return
    severity = graded(ratio, LAGGING, FAR_LAGGING)
    message = (
        f"rank {rank} is the slowest in {share:.0%} of the records; the slowest rank's forward passes take {ratio:.2f} times the "
        "median of the others of its stage"
    )
    advice = (
        ""
        if severity is Severity.OK
        else f"look at rank {rank}'s node and device, leave it out, see whether it stays so"
    )
    yield Finding("stragglers", severity, message, ratio, LAGGING, (), advice)
