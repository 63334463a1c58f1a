"""A comparison of tokenizers for readers: a table, JSON, and a bar chart."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from megatron_bielik.tokenizer.compare import Measurement
from megatron_bielik.tokenizer.sentencepiece_model import TokenizerError

COLOURS = ("#2166ac", "#e08214", "#1b7837", "#b2182b", "#762a83", "#8c6d31", "#4d4d4d", "#1c9099")
_PANELS: tuple[tuple[str, str, Callable[[Measurement], float]], ...] = (
    ("characters per token (more is better)", "{:.2f}", lambda m: m.characters_per_token),
    ("tokens per word (fewer is better)", "{:.2f}", lambda m: m.tokens_per_word),
    ("byte tokens without line ends, %", "{:.2f}", lambda m: 100 * m.byte_rate),
    ("encoding speed of one thread, MB/s", "{:.1f}", lambda m: m.megabytes_per_second),
)


def table(measurements: Sequence[Measurement]) -> Table:
    """Rows text by text, a line between texts."""
    result = Table(title="tokenizers compared")
    for column in ("text", "tokenizer"):
        result.add_column(column, overflow="fold")
    for column in ("entries", "tokens", "chars/token", "tokens/word", "unknown", "bytes", "MB/s"):
        result.add_column(column, justify="right", no_wrap=True)
    for at, m in enumerate(measurements):
        last = at + 1 == len(measurements) or measurements[at + 1].text != m.text
        result.add_row(
            m.text,
            m.tokenizer,
            f"{m.entries:,}",
            f"{m.tokens:,}",
            f"{m.characters_per_token:.3f}",
            f"{m.tokens_per_word:.3f}",
            f"{m.unknown_rate:.2%}",
            f"{m.byte_rate:.2%}",
            f"{m.megabytes_per_second:.1f}",
            end_section=last,
        )
    return result


def write_json(measurements: Sequence[Measurement], path: Path) -> None:
    """Write every count and rate, a record for each tokenizer and text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    text = json.dumps([m.as_dict() for m in measurements], indent=2, ensure_ascii=False)
    try:
        temporary.write_text(text + "\n", encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def draw(measurements: Sequence[Measurement]) -> Figure:
    """Four panels of bars: a group for each text, in it a colour for each tokenizer, the value above each bar."""
    texts = list(dict.fromkeys(m.text for m in measurements))
    names = list(dict.fromkeys(m.tokenizer for m in measurements))
    found = {(m.tokenizer, m.text): m for m in measurements}
    width = max(11.0, 1.6 + 2 * 0.55 * len(texts) * (len(names) + 1))
    figure = Figure(figsize=(min(width, 40), 8), layout="constrained")
    for panel, (title, form, value) in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
        for number, name in enumerate(names):
            values = [value(found[name, text]) for text in texts]
            _bars(panel, values, number, len(names), form, name)
        panel.set_title(title, fontsize=11, loc="left")
        panel.set_xticks(range(len(texts)), texts)
        panel.margins(y=0.14)
        panel.set_ylim(bottom=0)
        panel.grid(visible=True, axis="y", color="#e4e4e4", linewidth=0.8)
        panel.set_axisbelow(True)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(names), 5), frameon=False, fontsize=10)
    return figure


def _bars(panel: Axes, values: list[float], number: int, count: int, form: str, name: str) -> None:
    """One tokenizer's bars; each group is 0.8 wide."""
    width = 0.8 / count
    places = [at - 0.4 + width * (number + 0.5) for at in range(len(values))]
    bars = panel.bar(places, values, 0.94 * width, color=COLOURS[number % len(COLOURS)], label=name)
    panel.bar_label(bars, [form.format(value) for value in values], fontsize=8, padding=2)


def write_chart(measurements: Sequence[Measurement], path: Path) -> None:
    """Draw into a .png, .svg or .pdf file, which appears when complete.

    Raises:
        TokenizerError: Another suffix.
    """
    kind = path.suffix.lstrip(".").lower()
    if kind not in ("png", "svg", "pdf"):
        raise TokenizerError(f"--chart is {path}; its suffix must be one of .png, .svg, .pdf")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draw(measurements).savefig(temporary, format=kind, dpi=130)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
