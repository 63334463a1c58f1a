"""Draws what a run logged: one run in four panels, or several runs in the same axes.

Reads the JSON-lines files that log.py writes, also those of resumed or still running jobs.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # before pyplot: no screen is needed

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

from megatron_bielik.evaluation.polish_tasks import AVERAGES, Average
from megatron_bielik.training.log import FILE_NAME, read_records

# Okabe and Ito's palette: told apart with every common colour blindness, and in grey by its order of lightness.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#6b6b6b"

Series = tuple[list[int], list[float]]


POST_TRAINING = {
    "reward": "mean reward of sampled answers",
    "kl": "divergence from the reference, nats per token",
    "chosen_log_ratio": "chosen answers: log-probability against the reference",
    "margin": "margin of chosen over rejected answers",
}


@dataclass(frozen=True)
class Run:
    """One run's log, ready to draw.

    Args:
        name: Shown in the legend.
        train: Values over steps by name (loss, lr, grad_norm, tokens_per_second_per_gpu); NaN where none was finite.
        evals: Loss over steps by set.
        benchmarks: Score over steps by average or task.
        events: Step and kind, in order; a resume counts as an event.
    """

    name: str
    train: dict[str, Series]
    evals: dict[str, Series]
    events: list[tuple[int, str]]
    benchmarks: dict[str, Series] = field(default_factory=dict)


@dataclass(frozen=True)
class ReferenceLine:
    """A horizontal line in the loss panel, such as the unigram entropy of the data.

    Args:
        value: Loss, nats per token.
        label: Written into the legend.
    """

    value: float
    label: str


def load_run(path: Path) -> Run:
    """Reads a run from its folder or its JSON-lines file.

    A step that was logged more than once (a run resumed from an earlier checkpoint) counts as it was logged last.
    Raises FileNotFoundError or ValueError, in one line, for a missing, empty or unreadable log.
    """
    file = path / FILE_NAME if path.is_dir() else path
    if not file.exists():
        raise FileNotFoundError(f"{file} does not exist; give a run's folder or its {FILE_NAME}")
    name = path.resolve().name if path.is_dir() or path.name == FILE_NAME else path.stem
    if path.name == FILE_NAME:
        name = path.resolve().parent.name
    train: dict[str, dict[int, float]] = {}
    evals: dict[str, dict[int, float]] = {}
    benchmarks: dict[str, dict[int, float]] = {}
    events: list[tuple[int, str]] = []
    starts = resumed_after = 0
    for record in read_records(file):
        if record.get("type") == "run":
            name = record.get("name") or name
            starts += 1
        elif record.get("type") == "event":
            events.append((record["step"], record["kind"]))
        elif record.get("type") == "eval":
            evals.setdefault(record["set"], {})[record["step"]] = _number(record.get("loss"))
        elif record.get("type") == "benchmark":
            benchmarks.setdefault(record["set"], {})[record["step"]] = _number(record.get("score"))
        elif record.get("type") == "train":
            if starts > resumed_after + 1:  # the first record after a second start
                events.append((record["step"], "resume"))
                resumed_after = starts - 1
            for key in ("loss", "lr", "grad_norm", "tokens_per_second_per_gpu", *POST_TRAINING):
                if key in record:
                    train.setdefault(key, {})[record["step"]] = _number(record[key])
    if not train and not evals:
        raise ValueError(f"{file} holds no train and no eval records yet; nothing to draw")
    series = [{key: _sorted(points) for key, points in part.items()} for part in (train, evals, benchmarks)]
    return Run(name, series[0], series[1], events, series[2])


def _number(value: Any) -> float:
    """The value, or NaN for the null that stands for a number that was not finite."""
    return math.nan if value is None else float(value)


def _sorted(points: dict[int, float]) -> Series:
    steps = sorted(points)
    return steps, [points[step] for step in steps]


def smooth(values: Sequence[float], factor: float) -> list[float]:
    """Exponential moving average without the bias of its start; NaN stays NaN and is not averaged in.

    Raises ValueError unless 0 <= factor < 1; 0 changes nothing.
    """
    if not 0 <= factor < 1:
        raise ValueError(f"smooth is {factor:g}; it must be at least 0 and below 1, for example 0.9")
    total = weight = 0.0
    result = []
    for value in values:
        if math.isnan(value):
            result.append(math.nan)
            continue
        total = factor * total + (1 - factor) * value
        weight = factor * weight + (1 - factor)
        result.append(total / weight)
    return result


def draw(runs: Sequence[Run], smoothing: float = 0.0, reference: ReferenceLine | None = None) -> Figure:
    """Loss, learning rate, gradient norm and speed over steps.

    One run: training, every evaluation set and every kind of event have a colour each. Several runs: the colour tells
    the run and the marker the evaluation set; events are left out. Raises ValueError without a run or for a smoothing
    factor outside [0, 1).
    """
    if not runs:
        raise ValueError("no run was given; nothing to draw")
    more = [key for key in POST_TRAINING if any(key in run.train for run in runs)]
    averages = {name: words for name, words in AVERAGES.items() if any(name in run.benchmarks for run in runs)}
    rows = 2 + -(-(len(more) + len(averages)) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(13, 4 * rows), sharex=True, layout="constrained")
    panels = loss, lr, norm, speed = list(axes.flat)[:4]
    titles = ("loss, nats per token", "learning rate", "gradient norm before clipping", "tokens per second per GPU")
    for panel, title in zip(panels, titles, strict=True):
        _style(panel, title)
    for index, run in enumerate(runs):
        colour = COLOURS[index % len(COLOURS)]
        _curve(loss, run.train.get("loss"), smoothing, colour, run.name if len(runs) > 1 else "train")
        for panel, key in ((lr, "lr"), (norm, "grad_norm"), (speed, "tokens_per_second_per_gpu")):
            _curve(panel, run.train.get(key), 0 if key == "lr" else smoothing, colour)
    _post_training(list(axes.flat)[4:], more, runs, smoothing)
    _benchmarks(list(axes.flat)[4 + len(more) :], averages, runs)
    _eval_points(loss, runs)
    if len(runs) == 1:
        _events(loss, runs[0])
    if reference is not None:
        label = f"{reference.label}: {reference.value:.3f}"
        loss.axhline(reference.value, color=GREY, linestyle=(0, (6, 3)), linewidth=1.2, label=label)
    _finish(panels, runs)
    figure.legend(*loss.get_legend_handles_labels(), loc="outside lower center", ncols=7, frameon=False, fontsize=10)
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    figure.suptitle(title, fontsize=14, fontweight="bold", x=0.012, ha="left")
    return figure


def _post_training(panels: Sequence[Axes], keys: Sequence[str], runs: Sequence[Run], smoothing: float) -> None:
    """What DPO and GRPO log beside the loss."""
    for panel, key in zip(panels, keys, strict=False):
        _style(panel, POST_TRAINING[key])
        for index, run in enumerate(runs):
            _curve(panel, run.train.get(key), smoothing, COLOURS[index % len(COLOURS)])


def _benchmarks(panels: Sequence[Axes], averages: Mapping[Average, str], runs: Sequence[Run]) -> None:
    """Scores of checkpoints, a panel for each average; a panel left over is taken away."""
    for panel, (name, words) in zip(panels, averages.items(), strict=False):
        _style(panel, f"{words}, percent of the way from guessing to perfect")
        for index, run in enumerate(runs):
            steps, values = run.benchmarks.get(name, ([], []))
            panel.plot(steps, values, "o-", color=COLOURS[index % len(COLOURS)], linewidth=1.2, markersize=5)
    for panel in panels[len(averages) :]:
        panel.remove()


def _style(panel: Axes, title: str) -> None:
    """The look all panels share."""
    panel.set_title(title, fontsize=11, loc="left")
    panel.grid(visible=True, color="#e4e4e4", linewidth=0.8)
    panel.set_axisbelow(True)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    panel.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    panel.xaxis.set_major_formatter(EngFormatter(sep=""))


def _curve(panel: Axes, series: Series | None, smoothing: float, colour: str, label: str = "_nolegend_") -> None:
    """One line; with smoothing the raw values stay visible behind it. A point alone between gaps is drawn as a dot."""
    if series is None:
        return
    steps, values = series
    if smoothing > 0:
        panel.plot(steps, values, color=colour, linewidth=0.8, alpha=0.25)
    panel.plot(steps, smooth(values, smoothing), color=colour, linewidth=1.6, label=label)
    padded = [math.nan, *values, math.nan]
    alone = [
        index for index, value in enumerate(values)
        if not math.isnan(value) and math.isnan(padded[index]) and math.isnan(padded[index + 2])
    ]  # fmt: skip
    panel.plot([steps[i] for i in alone], [values[i] for i in alone], ".", color=colour)


def _eval_points(panel: Axes, runs: Sequence[Run]) -> None:
    """Evaluation losses as points; one legend entry per set, grey where the colour already tells the run."""
    names = sorted({name for run in runs for name in run.evals})
    for index, name in enumerate(names):
        marker = "osD^vP"[index % 6]
        for number, run in enumerate(runs):
            steps, values = run.evals.get(name, ([], []))
            colour = COLOURS[number % len(COLOURS)] if len(runs) > 1 else COLOURS[(index + 1) % len(COLOURS)]
            panel.plot(steps, values, marker, color=colour, markersize=6, markeredgecolor="white", zorder=3)
        shown = GREY if len(runs) > 1 else COLOURS[(index + 1) % len(COLOURS)]
        panel.plot([], [], marker, color=shown, label=f"eval {name}")


def _events(panel: Axes, run: Run) -> None:
    """A thin line per event and one legend entry per kind with its count, so that a hundred spikes stay readable."""
    counts = Counter(kind for _, kind in run.events)
    for index, (kind, count) in enumerate(sorted(counts.items())):
        dashes = ((0, (1, 2)), (0, (4, 2)), (0, (4, 2, 1, 2)), (0, (8, 2)))[index % 4]
        colour = COLOURS[-2 - index % (len(COLOURS) - 2)]
        label = kind + (f" ×{count}" if count > 1 else "")
        for step in (step for step, other in run.events if other == kind):
            panel.axvline(step, color=colour, linestyle=dashes, linewidth=1.1, alpha=0.8, zorder=1, label=label)
            label = "_nolegend_"


def _finish(panels: Sequence[Axes], runs: Sequence[Run]) -> None:
    """Scales, legends, and a word where nothing was logged; needs all curves drawn."""
    _, lr, norm, speed = panels
    for panel in panels:
        if not panel.lines:
            panel.text(0.5, 0.5, "not recorded", transform=panel.transAxes, ha="center", color=GREY)
    if any(value > 0 for run in runs for value in run.train.get("grad_norm", ([], []))[1]):
        norm.set_yscale("log")
        norm.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        norm.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        norm.yaxis.set_minor_formatter(NullFormatter())
    lr.yaxis.set_major_formatter(lambda value, _: f"{value:.1e}" if value else "0")
    speed.yaxis.set_major_formatter(EngFormatter(sep=""))
    if speed.lines:
        speed.set_ylim(bottom=0)
    for panel in panels[0].figure.axes[-2:]:
        panel.set_xlabel("step")


def save(figure: Figure, path: Path) -> None:
    """Writes the figure under a temporary name, then renames it. The suffix chooses the format.

    Raises ValueError, in one line, for a format that matplotlib cannot write.
    """
    suffix = path.suffix.lstrip(".").lower()
    if suffix not in figure.canvas.get_supported_filetypes():
        raise ValueError(f"output is {path}; its suffix must be one of .png, .svg, .pdf")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        figure.savefig(temporary, format=suffix, dpi=130)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        plt.close(figure)
