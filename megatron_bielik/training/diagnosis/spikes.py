"""Loss spikes and skipped steps: when, how large, and which documents their samples came from."""

from __future__ import annotations

import re
from collections.abc import Iterator

from megatron_bielik.data.errors import DataError
from megatron_bielik.training.diagnosis.documents import DocumentFinder
from megatron_bielik.training.diagnosis.finding import Finding, Severity, first_steps
from megatron_bielik.training.diagnosis.history import Event, History
from megatron_bielik.training.diagnosis.samples import Ranges, SampleOrder, samples_of_message

MANY = 0.01  # share of the steps
MOST_TRACED = 20  # spikes whose documents are read, the largest ones
_SPIKE = re.compile(r"loss ([\d.eE+-]+) is ([\d.eE+-]+) deviations above ([\d.eE+-]+)")
_NOTHING_READ = "no document is named"


def spikes(history: History, documents: int) -> Iterator[Finding]:
    """Events of kind spike.

    Args:
        history: Of the run.
        documents: How many to name; 0 reads no data.
    """
    events = history.events_of("spike")
    if not events:
        if history.method == "pretraining" and history.train:
            yield Finding("loss spikes", Severity.OK, "no loss spike was logged", 0.0, 0.0)
        return
    worst = sorted(events, key=_deviations, reverse=True)
    found = _SPIKE.search(worst[0].message)
    message = f"{len(events)} at {first_steps(tuple(event.step for event in events))}"
    if found:
        message += (
            f"; the largest at step {worst[0].step:,}: loss {float(found[1]):.3f}, {float(found[2]):.1f} deviations above "
            f"{float(found[3]):.3f}"
        )
    yield _with_documents("loss spikes", history, worst, documents, message)


def skipped(history: History, documents: int) -> Iterator[Finding]:
    """Events of kind skip: steps whose loss or gradient was not finite."""
    events = history.events_of("skip")
    if events:
        where = first_steps(tuple(event.step for event in events))
        message = (
            f"{len(events)} in all: at {where} loss or gradient was not finite, and the weights stayed as they were"
        )
        yield _with_documents("skipped steps", history, list(events), documents, message)
    elif history.train:
        yield Finding("skipped steps", Severity.OK, "every step's loss and gradient was finite", 0.0, 0.0)


def _deviations(event: Event) -> float:
    found = _SPIKE.search(event.message)
    return float(found[2]) if found else 0.0


def _with_documents(check: str, history: History, events: list[Event], documents: int, message: str) -> Finding:
    """The finding of some events, the worst first, with the documents of the worst ones."""
    share = len(events) / max(history.last_step, 1)
    severity = Severity.PROBLEM if share > MANY and len(events) > 1 else Severity.WARNING
    details: list[str] = []
    if documents and history.method == "pretraining":
        try:
            details = _named(history, events[:MOST_TRACED], documents)
        except (DataError, OSError, KeyError) as error:
            details = [f"{_NOTHING_READ}: {error}; start this where the run was started, so that its paths are found"]
    advice = (
        "read the documents named; take them out of the shard, or lower optimizer.lr where nothing is wrong with them"
    )
    steps = tuple(sorted(event.step for event in events))
    return Finding(check, severity, message, float(len(events)), 0.0, steps, advice, tuple(details))


def _named(history: History, events: list[Event], documents: int) -> list[str]:
    order = SampleOrder(history)
    ranges: dict[int, Ranges] = {}
    for event in events:
        ranges[event.step] = samples_of_message(event.message) or order.samples(event.step)
    with DocumentFinder(history) as finder:
        suspects = finder.suspects(ranges)
        lines = [finder.describe(one, len(ranges)) for one in suspects[:documents]]
    more = len(suspects) - len(lines)
    return [*lines, f"and {more:,} more, less unusual"] if more else lines
