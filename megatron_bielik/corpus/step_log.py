"""What a step of the corpus pipeline did in one task: counts, reasons with samples, histograms; merged over tasks for the report.

A task writes its log when the step has seen its last document, so a task that is stopped and run again counts once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from megatron_bielik.corpus.records import write_whole

_EXCERPT = 200  # characters of a sample
BINS = 20


@dataclass
class StepLog:
    """Of one step.

    Args:
        step: Its name.
        documents: That left the step.
        text_bytes: Of their texts, UTF-8.
        tokens: Of their texts, where a tokenizer was given.
        changes: Things done, by kind, such as repairs.
        dropped: Documents by reason.
        samples: By reason, up to a few of [id, beginning of the text].
        histograms: By quantity, documents in each of 20 equal bins from 0 to 1.
    """

    step: str
    documents: int = 0
    text_bytes: int = 0
    tokens: int = 0
    changes: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    samples: dict[str, list[list[str]]] = field(default_factory=dict)
    histograms: dict[str, list[int]] = field(default_factory=dict)

    def drop(self, reason: str, name: str, text: str, most: int) -> None:
        """Count a document that does not go on."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
        kept = self.samples.setdefault(reason, [])
        if len(kept) < most:
            kept.append([name, text[:_EXCERPT].encode("utf-8", "replace").decode()])

    def change(self, kinds: dict[str, int]) -> None:
        """Count what was done to a document."""
        for kind, count in kinds.items():
            self.changes[kind] = self.changes.get(kind, 0) + count

    def measure(self, quantity: str, value: float) -> None:
        """Put a value between 0 and 1 into its bin."""
        bins = self.histograms.setdefault(quantity, [0] * BINS)
        bins[min(int(value * BINS), BINS - 1)] += 1

    def save(self, folder: Path, order: int, rank: int) -> None:
        """Write the log of a task; it appears when complete."""
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / f"{order:02d}-{rank:05d}.json", json.dumps(asdict(self), ensure_ascii=False))


def merge(logs: Iterable[StepLog], samples: int) -> StepLog:
    """One log for all tasks of a step, given in the order of the tasks."""
    logs = list(logs)
    total = StepLog(logs[0].step)
    for log in logs:
        total.documents += log.documents
        total.text_bytes += log.text_bytes
        total.tokens += log.tokens
        total.change(log.changes)
        for reason, count in log.dropped.items():
            total.dropped[reason] = total.dropped.get(reason, 0) + count
            kept = total.samples.setdefault(reason, [])
            kept += log.samples.get(reason, [])[: samples - len(kept)]
        for quantity, bins in log.histograms.items():
            before = total.histograms.get(quantity, [0] * BINS)
            total.histograms[quantity] = [a + b for a, b in zip(before, bins, strict=True)]
    return total


def read_logs(folder: Path, samples: int) -> list[StepLog]:
    """Logs of all steps, merged over tasks, in the order of the steps."""
    by_step: dict[str, list[StepLog]] = {}
    for path in sorted(folder.glob("*.json")):
        by_step.setdefault(path.name.split("-")[0], []).append(StepLog(**json.loads(path.read_text(encoding="utf-8"))))
    return [merge(logs, samples) for _, logs in sorted(by_step.items())]
