"""The pictures of the recipe's report, as SVG text to be put into a page: the same run gives the same bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")  # no screen is needed

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from megatron_bielik.evaluation.recipe_run import RecipeRun, Training

INK, GREY, GRID = "#1f2933", "#6b7280", "#e5e7eb"
BLUE, RED, GREEN, AMBER = "#2563a8", "#c2410c", "#15803d", "#b7791f"
SETS = {"pl": (RED, "Polish, held out"), "en": (GREEN, "English, held out"), "valid": (RED, "held out")}
Points = Sequence[tuple[int, float]]


def as_svg(figure: Figure) -> str:
    """SVG without the XML head; texts stay texts, ids and dates do not change from run to run."""
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "recipe", "font.family": "sans-serif"}):
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]


def losses(run: RecipeRun) -> str:
    """Training and held-out loss of every training, a panel each."""
    names = [name for name in run.trainings if name != "GRPO"]
    figure = _figure(len(names))
    for panel, name in zip(figure.axes, names, strict=False):
        training = run.trainings[name]
        _style(panel, name, "nats per token" if name != "DPO-P" else "DPO-P loss")
        _line(panel, training.logged("loss"), BLUE, "training")
        for key, (colour, label) in SETS.items():
            points = training.evaluated("loss", key)
            if points:
                panel.plot(*zip(*points, strict=True), "o", color=colour, markersize=4.5, label=label)
        panel.legend(frameon=False, fontsize=8)
    return as_svg(figure)


def post_training(run: RecipeRun) -> str:
    """What DPO-P and GRPO move: margins and log-ratios, rewards and divergence."""
    panels: list[tuple[Training, str, str, str]] = []
    for name, figures in {
        "DPO-P": (
            ("margin", "margin, chosen over rejected"),
            ("chosen_log_ratio", "chosen answers, change in nats"),
        ),
        "GRPO": (("reward", "reward of sampled answers"), ("kl", "divergence, nats per token")),
    }.items():
        if name in run.trainings:
            panels += [(run.trainings[name], name, key, label) for key, label in figures]
    if not panels:
        return ""
    figure = _figure(len(panels))
    for panel, (training, name, key, label) in zip(figure.axes, panels, strict=False):
        _style(panel, name, label)
        _line(panel, training.logged(key), BLUE, "training")
        held_out = training.evaluated(key, "valid")
        if held_out:
            panel.plot(*zip(*held_out, strict=True), "o", color=RED, markersize=4.5, label="held out")
            panel.legend(frameon=False, fontsize=8)
    return as_svg(figure)


def first_losses(values: dict[str, float]) -> str:
    """A bar for each way to make the new rows."""
    if not values:
        return ""
    ordered = sorted(values.items(), key=lambda item: item[1])
    figure = Figure(figsize=(6.4, 0.7 + 0.36 * len(ordered)), layout="constrained")
    axes = figure.add_subplot()
    colours = [GREY if name in ("source", "random") else BLUE for name, _ in ordered]
    labels = [{"source": "old tokenizer", "focus": "FOCUS"}.get(name, name) for name, _ in ordered]
    bars = axes.barh(labels, [value for _, value in ordered], color=colours)
    axes.bar_label(bars, fmt="%.3f", padding=3, color=INK, fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.14)
    _plain(axes)
    axes.set_xlabel("nats per character of held-out Polish", fontsize=9, color=GREY)
    return as_svg(figure)


def _figure(panels: int) -> Figure:
    rows = -(-panels // 2)
    figure = Figure(figsize=(9.6, 2.7 * rows), layout="constrained")
    for number in range(panels):
        figure.add_subplot(rows, 2, number + 1)
    return figure


def _style(panel: Axes, title: str, label: str) -> None:
    _plain(panel)
    panel.set_title(title, fontsize=10, loc="left", fontweight="bold", color=INK)
    panel.set_ylabel(label, fontsize=8, color=GREY)
    panel.set_xlabel("step", fontsize=8, color=GREY)
    panel.grid(visible=True, color=GRID, linewidth=0.8)
    panel.set_axisbelow(True)


def _plain(axes: Axes) -> None:
    axes.tick_params(labelsize=8, colors=INK, length=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GRID)


def _line(panel: Axes, points: Points, colour: str, label: str) -> None:
    if points:
        panel.plot(*zip(*points, strict=True), color=colour, linewidth=1.5, label=label)
