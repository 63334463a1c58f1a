"""Rates at which two runs have the same average, and results.json, results.md and plots from what the runs logged.

report.py rate --run unpacked-1-alr --method plain-low --lr 2e-3     # prints options
report.py figures --folder .
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from megatron_bielik.corpus.records import save_picture, write_whole
from megatron_bielik.training.log import FILE_NAME, read_records

METHODS = ("plain", "alr-high", "plain-low", "alr")  # the first two have one average rate, the others another
LAST_OF_FIRST = 0.1  # min_lr over lr
# Okabe and Ito's colours.
COLOURS = {"plain": "#D55E00", "alr-high": "#E69F00", "plain-low": "#0072B2", "alr": "#000000"}
Row = dict[str, Any]


def log_of(run: Path, kind: str) -> list[Row]:
    """Records of a type."""
    return [record for record in read_records(run / FILE_NAME) if record["type"] == kind]


def share_of(run: Path) -> float:
    """Sum of the adapted rates over that of the scheduled ones."""
    train = log_of(run, "train")
    return sum(one["lr"] for one in train) / sum(one["lr_scheduled"] for one in train)


def figures_of(run: Path) -> Row:
    """What a run logged and what its model answered."""
    train = log_of(run, "train")
    tokens = [one["label_tokens"] for one in train]
    return {
        "steps": len(train),
        "mean_rate": statistics.fmean(one["lr"] for one in train),
        "trained_tokens_of_a_step": {"least": min(tokens), "median": statistics.median(tokens), "most": max(tokens)},
        "valid_loss": log_of(run, "eval")[-1]["loss"],
        "held_out": json.loads((run / "answers.json").read_text(encoding="utf-8")),
    }


def collect(folder: Path) -> Row:
    """Figures by place (packing and seed) and method."""
    figures: Row = {}
    for path in sorted(folder.glob("*packed-*/answers.json")):
        place, seed, method = path.parent.name.split("-", 2)
        figures.setdefault(f"{place}-{seed}", {})[method] = figures_of(path.parent)
    for place, methods in figures.items():
        figures[place] = {name: methods[name] for name in METHODS if name in methods}
    return figures


def table(figures: Row) -> str:
    """Markdown: a line for each packing and method, means over the seeds."""
    lines = [
        "| | mean rate | valid loss | topics right | loss | lists right | right form | loss | new lists, right form | loss |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for packing in ("unpacked", "packed"):
        places = [methods for place, methods in figures.items() if place.startswith(f"{packing}-")]
        for method in METHODS if places else ():
            runs = [methods[method] for methods in places]

            def mean(value: Callable[[Row], float], runs: list[Row] = runs) -> float:
                return statistics.fmean(value(run) for run in runs)

            def of(kind: str, name: str, mean: Callable[..., float] = mean) -> float:
                return mean(lambda run: run["held_out"][kind][name])

            lines.append(
                f"| {packing}, {method} | {mean(lambda run: run['mean_rate']):.2e} | "
                f"{mean(lambda run: run['valid_loss']):.3f} | {of('temat', 'exact'):.3f} | {of('temat', 'loss'):.3f} | "
                f"{of('lista', 'exact'):.3f} | {of('lista', 'form'):.3f} | {of('lista', 'loss'):.3f} | "
                f"{of('nowa lista', 'form'):.3f} | {of('nowa lista', 'loss'):.3f} |"
            )
    return "\n".join(lines) + "\n"


def draw_rates(folder: Path, places: list[str], path: Path) -> None:
    """Above the rate as logged and as scheduled, below T of each step; a column for each place."""
    figure = Figure(figsize=(3.6 * len(places), 4.2), layout="constrained")
    for number, place in enumerate(places):
        train = log_of(folder / f"{place}-alr", "train")
        steps = [one["step"] for one in train]
        rates = figure.add_subplot(2, len(places), number + 1)
        rates.plot(steps, [one["lr_scheduled"] for one in train], color=COLOURS["plain"], label="scheduled")
        rates.plot(steps, [one["lr"] for one in train], color=COLOURS["alr"], linewidth=0.7, label="adapted")
        rates.set(title=place, ylabel="learning rate")
        rates.legend(frameon=False)
        counts = figure.add_subplot(2, len(places), len(places) + number + 1)
        counts.bar(steps, [one["label_tokens"] for one in train], width=1.0, color=COLOURS["plain-low"])
        counts.set(xlabel="step", ylabel="T, trained tokens")
        for axes in (rates, counts):
            axes.spines[["top", "right"]].set_visible(False)
    save_picture(figure, path)


def draw_losses(folder: Path, figures: Row, path: Path) -> None:
    """The valid set over the steps, and the losses of both kinds of held-out answers; a column for each place."""
    figure = Figure(figsize=(3.6 * len(figures), 4.2), layout="constrained")
    for number, (place, methods) in enumerate(figures.items()):
        curves = figure.add_subplot(2, len(figures), number + 1)
        kinds = figure.add_subplot(2, len(figures), len(figures) + number + 1)
        for method, run in methods.items():
            valid = log_of(folder / f"{place}-{method}", "eval")
            curves.plot(
                [one["step"] for one in valid], [one["loss"] for one in valid], "o-", ms=3, color=COLOURS[method]
            )
            losses = [run["held_out"][kind]["loss"] for kind in ("temat", "lista")]
            kinds.plot(*losses, "o", ms=9, color=COLOURS[method], label=method)
        curves.set(title=place, xlabel="step", ylabel="loss of the valid set")
        kinds.set(xlabel="held out: loss of topics", ylabel="loss of lists")
        kinds.legend(frameon=False)
        for axes in (curves, kinds):
            axes.spines[["top", "right"]].set_visible(False)
    save_picture(figure, path)


def main() -> None:
    """Print options, or write the files and show the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="what", required=True)
    rate, report = kinds.add_parser("rate"), kinds.add_parser("figures")
    rate.add_argument("--run", type=Path, required=True, help="a run with the adaptive rate")
    rate.add_argument("--method", choices=("plain-low", "alr-high"), required=True, help="whose rate is wanted")
    rate.add_argument("--lr", type=float, required=True, help="scheduled rate of the run")
    report.add_argument("--folder", type=Path, required=True, help="output folder of run.sh")
    given = parser.parse_args()
    if given.what == "rate":
        share = share_of(given.run)
        wanted = given.lr * share if given.method == "plain-low" else given.lr / share
        print(f"--optimizer.lr {wanted:.6g} --optimizer.min_lr {LAST_OF_FIRST * wanted:.6g}")
        return
    figures = collect(given.folder)
    (given.folder / "plots").mkdir(exist_ok=True)
    write_whole(given.folder / "results.json", json.dumps(figures, indent=2) + "\n")
    write_whole(given.folder / "results.md", table(figures))
    draw_rates(given.folder, [place for place in figures if place.endswith("-1")], given.folder / "plots/rates.png")
    draw_losses(given.folder, figures, given.folder / "plots/losses.png")
    print(table(figures))
    print(f"-> {(given.folder / 'results.json').resolve()}, results.md, plots")


if __name__ == "__main__":
    main()
