"""The corpus pipeline's report: what entered and left every step, why documents were dropped, and histograms as pictures."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron_bielik.corpus.prepare_config import CorpusConfig
from megatron_bielik.corpus.records import save_picture, write_whole
from megatron_bielik.corpus.step_log import BINS, StepLog


def write_report(folder: Path, logs: list[StepLog], config: CorpusConfig, fingerprint: str) -> dict[str, Any]:
    """Write pictures, report.md and, last, report.json.

    Args:
        folder: Of the results.
        logs: One per step, in order; the first is the reader's.
        config: Goes into the report.
        fingerprint: Of the work, by which it is recognised.
    """
    steps = []
    before = {"documents": logs[0].documents + sum(logs[0].dropped.values()), "text_bytes": None, "tokens": None}
    for log in logs:
        after = {
            "documents": log.documents,
            "text_bytes": log.text_bytes,
            "tokens": log.tokens if config.output.tokenizer else None,
        }
        details = {key: value for key, value in asdict(log).items() if key not in (*after, "step")}
        steps.append({"step": log.step, "in": before, "out": after, **details})
        before = after
    pictures = [_draw(folder, quantity, bins) for log in logs for quantity, bins in log.histograms.items()]
    report = {"fingerprint": fingerprint, "steps": steps, "pictures": pictures, "config": asdict(config)}
    write_whole(folder / "report.md", _markdown(steps, pictures))
    write_whole(folder / "report.json", json.dumps(report, ensure_ascii=False, indent=1) + "\n")
    return report


def _draw(folder: Path, quantity: str, bins: list[int]) -> str:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    name = "".join(c if c.isalnum() else "_" for c in quantity).strip("_") + ".png"
    figure, axes = pyplot.subplots(figsize=(6, 3), layout="constrained")
    axes.bar([(i + 0.5) / BINS for i in range(BINS)], bins, width=0.9 / BINS)
    axes.set(xlabel=quantity, ylabel="documents", xlim=(0, 1))
    save_picture(figure, folder / name)
    pyplot.close(figure)
    return name


def _number(value: int | None, unit: float = 1) -> str:
    if value is None:
        return ""
    return f"{value:,}" if unit == 1 else f"{value / unit:,.2f}"


def _markdown(steps: list[dict[str, Any]], pictures: list[str]) -> str:
    lines = ["# Corpus", "", "| step | documents in | out | kept | MB out | tokens out |", "|---|--:|--:|--:|--:|--:|"]
    for step in steps:
        entered, left = step["in"]["documents"], step["out"]["documents"]
        lines.append(
            f"| {step['step']} | {entered:,} | {left:,} | {left / max(entered, 1):.1%} | "
            f"{_number(step['out']['text_bytes'], 1e6)} | {_number(step['out']['tokens'])} |"
        )
    for step in steps:
        if step["changes"]:
            done = ", ".join(
                f"{kind} {count:,}" for kind, count in sorted(step["changes"].items(), key=lambda x: (-x[1], x[0]))
            )
            lines += ["", f"**{step['step']}**: {done}."]
        if step["dropped"]:
            lines += ["", f"## Dropped by {step['step']}", "", "| reason | documents | for example |", "|---|--:|---|"]
            for reason, count in sorted(step["dropped"].items(), key=lambda x: (-x[1], x[0])):
                samples = "<br>".join(
                    f"`{_cell(name)}` {_cell(text)}" for name, text in step["samples"].get(reason, [])
                )
                lines.append(f"| {reason} | {count:,} | {samples} |")
    lines += ["", *(f"![{name}]({name})" for name in pictures)]
    return "\n".join(lines).rstrip() + "\n"


def _cell(text: str) -> str:
    """Text inside a table: one line, no markup."""
    return " ".join(text[:100].split()).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
