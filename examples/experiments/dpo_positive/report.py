"""Reads what the runs logged and what their models answered, and writes results.json, results.md and two plots.

report.py --folder .
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from megatron_bielik.corpus.records import save_picture, write_whole
from megatron_bielik.training.log import FILE_NAME, read_records

PAIRS = ("one-change", "other-answer", "other-words")
METHODS = ("plain", "positive", "plain-normalized", "positive-normalized")
# Okabe and Ito's colours.
COLOURS = {"plain": "#D55E00", "positive": "#0072B2", "plain-normalized": "#E69F00", "positive-normalized": "#56B4E9"}
LOGGED = ("chosen_log_ratio", "rejected_log_ratio", "margin", "accuracy", "chosen_fell", "chosen_log_prob", "loss")
Row = dict[str, Any]


def log_of(run: Path, kind: str) -> list[Row]:
    """Records of a type."""
    return [record for record in read_records(run / FILE_NAME) if record["type"] == kind]


def answers_of(run: Path) -> Row:
    """Greedy answers to the held-out questions."""
    figures: Row = json.loads((run / "answers.json").read_text(encoding="utf-8"))["suma"]
    return figures


def collect(folder: Path) -> Row:
    """Figures by pairs, method and seed, and those of the model that all began from."""
    figures: Row = {"before": answers_of(folder / "sft"), "runs": {}}
    for pairs in PAIRS:
        for method in METHODS:
            for seed in range(1, 10):
                run = folder / f"{pairs}-{seed}-{method}"
                if (run / "answers.json").is_file():
                    last = log_of(run, "eval")[-1]
                    figures["runs"].setdefault(pairs, {}).setdefault(method, {})[str(seed)] = {
                        "steps": last["step"],
                        "valid": {name: last[name] for name in LOGGED},
                        "held_out": answers_of(run),
                    }
    return figures


def table(figures: Row) -> str:
    """Markdown: the model before, then pairs and methods, means over the seeds."""
    before = figures["before"]
    lines = [
        "| pairs, method (seeds) | chosen log-ratio | rejected log-ratio | chosen fell | accuracy | right | right form | loss |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
        f"| before | 0 | 0 | | | {before['exact']:.3f} | {before['form']:.3f} | {before['loss']:.3f} |",
    ]
    for pairs, methods in figures["runs"].items():
        for method, seeds in methods.items():
            runs = list(seeds.values())
            valid = {name: statistics.fmean(run["valid"][name] for run in runs) for name in LOGGED}
            held = {name: statistics.fmean(run["held_out"][name] for run in runs) for name in ("exact", "form", "loss")}
            lines.append(
                f"| {pairs}, {method} ({len(runs)}) | {valid['chosen_log_ratio']:+.3f} | {valid['rejected_log_ratio']:+.3f} | "
                f"{valid['chosen_fell']:.2f} | {valid['accuracy']:.3f} | {held['exact']:.3f} | {held['form']:.3f} | "
                f"{held['loss']:.3f} |"
            )
    return "\n".join(lines) + "\n"


def grid(figures: Row, rows: int) -> tuple[Figure, Any]:
    """Axes, a column for each kind of pair."""
    figure = Figure(figsize=(3.4 * len(figures["runs"]), 2.1 * rows), layout="constrained")
    axes = figure.subplots(rows, len(figures["runs"]), squeeze=False)
    for one in axes.flat:
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def draw_ratios(folder: Path, figures: Row, path: Path) -> None:
    """Log-ratios of both answers over the steps, summed over an answer's tokens."""
    figure, axes = grid(figures, 2)
    for column, (pairs, methods) in enumerate(figures["runs"].items()):
        for row, side in enumerate(("chosen", "rejected")):
            one = axes[row][column]
            one.axhline(0, color="#7f7f7f", linewidth=0.8)
            for method in ("plain", "positive"):
                for seed in methods.get(method, {}):
                    train = log_of(folder / f"{pairs}-{seed}-{method}", "train")
                    values = [record[f"{side}_log_ratio"] for record in train]
                    label = method if seed == "1" else None
                    one.plot([record["step"] for record in train], values, color=COLOURS[method], lw=1, label=label)
            one.set(title=f"{pairs}: {side}", ylabel="log-ratio, nats", xlabel="step" if row else "")
    axes[0][0].legend(frameon=False)
    save_picture(figure, path)


def draw_outcomes(folder: Path, figures: Row, path: Path) -> None:
    """Margins and accuracies over the steps, and right answers at the end."""
    figure, axes = grid(figures, 3)
    for column, (pairs, methods) in enumerate(figures["runs"].items()):
        for method, seeds in methods.items():
            train = log_of(folder / f"{pairs}-{next(iter(seeds))}-{method}", "train")
            for row, name in enumerate(("margin", "accuracy")):
                values = [record[name] for record in train]
                axes[row][column].plot([record["step"] for record in train], values, color=COLOURS[method], lw=1)
                axes[row][column].set(title=pairs if not row else None, xlabel="step", ylabel=name)
            right = [run["held_out"]["exact"] for run in seeds.values()]
            axes[2][column].bar(method.replace("-", "\n"), statistics.fmean(right), color=COLOURS[method])
            axes[2][column].plot([method.replace("-", "\n")] * len(right), right, "k.", ms=5)
        axes[2][column].axhline(figures["before"]["exact"], color="#7f7f7f", linestyle="--", label="before")
        axes[2][column].set(ylim=(0, 1), ylabel="right, held out")
        axes[2][column].tick_params(axis="x", labelsize=7)
    axes[2][0].legend(frameon=False, loc="center right")
    save_picture(figure, path)


def main() -> None:
    """Read, write the files, show the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="output folder of run.sh")
    folder = parser.parse_args().folder
    figures = collect(folder)
    (folder / "plots").mkdir(exist_ok=True)
    write_whole(folder / "results.json", json.dumps(figures, indent=2) + "\n")
    write_whole(folder / "results.md", table(figures))
    draw_ratios(folder, figures, folder / "plots/log_ratios.png")
    draw_outcomes(folder, figures, folder / "plots/outcomes.png")
    print(table(figures))
    print(f"-> {(folder / 'results.json').resolve()}, results.md, plots")


if __name__ == "__main__":
    main()
