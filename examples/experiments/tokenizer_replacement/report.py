"""Reads what the runs logged and writes results.json, results.md (a table) and results.png.

Losses are in nats per character of text, so that those of the old tokenizer can stand beside those of the new one. First
losses were measured that way by replace_tokenizer.py; those of training are per token and are multiplied by tokens per character.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from megatron_bielik.config import ModelConfig
from megatron_bielik.data.documents import documents
from megatron_bielik.data.shards import ShardReader
from megatron_bielik.training.log import FILE_NAME, read_records

GREY = "#7f7f7f"
# Okabe and Ito's colours. FOCUS is black, and a wide line below the others, so that those that coincide with it are seen.
COLOURS = {
    "focus": "#000000",
    "random": "#D55E00",
    "mean": "#E69F00",
    "fvt": "#0072B2",
    "linear": "#009E73",
    "wechsel": "#CC79A7",
    "ofa": "#56B4E9",
    "ramen": "#8C6D31",
}


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_run(folder: Path) -> dict[str, Any]:
    """Training losses and the last loss on held-out text, nats per token, and what the run was."""
    log = list(read_records(folder / FILE_NAME))
    config = next(record["config"] for record in log if record["type"] == "run")
    train = [record for record in log if record["type"] == "train"]
    return {
        "losses": [record["loss"] for record in train],
        "held_out": [record["loss"] for record in log if record["type"] == "eval"][-1],
        "set_up": {
            "parameters": ModelConfig(**config["model"]).shape().num_parameters(),
            "steps": train[-1]["step"],
            "tokens_per_step": train[0]["tokens"],
            "seed": config["training"]["seed"],
        },
    }


def tokens_per_character(shard: Path, text: Path) -> float:
    """Tokens of a shard, those that end documents included, per character of its text."""
    characters = sum(map(len, documents([str(text)], "text", None, option="--folder")))
    return ShardReader(shard).num_tokens / characters


def collect(folder: Path, methods: list[str]) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """All figures, lowest first loss first, and the training loss of each method at every step."""
    held_out = folder / "held-out.jsonl"
    old_rate = tokens_per_character(folder / "data/held-out-old", held_out)
    new_rate = tokens_per_character(folder / "data/held-out-new", held_out)
    first = {loss["name"]: loss for loss in read_json(folder / "focus/model/first_loss.json")}
    replaced = {name: read_json(folder / name / "model/tokenizer_replacement.json") for name in methods}
    old, runs = read_run(folder / "old-run"), {name: read_run(folder / name / "run") for name in methods}
    figures = {
        "unit": "nats per character, or per token where it says so",
        "old_model": {
            "tokens": replaced["focus"]["source_tokens"],
            "tokens_per_character": round(old_rate, 4),
            "first_loss": round(first["source"]["per_character"], 4),
            "held_out_loss": round(old["held_out"] * old_rate, 4),
            **old["set_up"],
        },
        "new_model": {
            "tokens": replaced["focus"]["tokens"],
            "shared": replaced["focus"]["kinds"]["copied"],
            "tokens_per_character": round(new_rate, 4),
            **runs["focus"]["set_up"],
        },
        "methods": {
            name: {
                "tokens": replaced[name]["kinds"],
                "first_loss": round(first[name]["per_character"], 4),
                "held_out_loss": round(runs[name]["held_out"] * new_rate, 4),
                "first_loss_per_token": round(first[name]["per_token"], 4),
                "first_training_loss_per_token": round(runs[name]["losses"][0], 4),
                "held_out_loss_per_token": round(runs[name]["held_out"], 4),
            }
            for name in sorted(methods, key=lambda name: first[name]["per_character"])
        },
    }
    return figures, {name: [loss * new_rate for loss in runs[name]["losses"]] for name in figures["methods"]}


def table(figures: dict[str, Any]) -> str:
    """Markdown: the old model, then the methods."""
    old, steps = figures["old_model"], figures["new_model"]["steps"]
    lines = [
        f"| | tokens copied | combined or predicted | random or mean | first loss | after {steps} steps |",
        "|---|--:|--:|--:|--:|--:|",
        f"| old model, old tokenizer | | | | {old['first_loss']:.3f} | {old['held_out_loss']:.3f} |",
    ]
    for name, row in figures["methods"].items():
        kinds = row["tokens"]
        groups = ("copied",), ("combined", "predicted"), ("random", "mean")
        counts = " | ".join(f"{sum(kinds.get(kind, 0) for kind in group):,}" for group in groups)
        lines.append(f"| {name} | {counts} | {row['first_loss']:.3f} | {row['held_out_loss']:.3f} |")
    return "\n".join(lines) + "\n"


def draw(figures: dict[str, Any], curves: dict[str, list[float]], path: Path) -> None:
    """First losses as bars, then the training of each method, with the old model's loss in both."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    bars, lines = figure.subplots(1, 2, width_ratios=(2, 3))
    old, rows = figures["old_model"], figures["methods"]
    drawn = bars.barh(list(rows), [row["first_loss"] for row in rows.values()], color=[COLOURS[name] for name in rows])
    bars.bar_label(drawn, fmt="%.3f", padding=3)
    bars.axvline(old["first_loss"], color=GREY, linestyle="--")
    bars.text(old["first_loss"], 1.01, "old model", color=GREY, ha="center", transform=bars.get_xaxis_transform())
    bars.invert_yaxis()
    bars.margins(x=0.15)
    bars.set(xlabel="nats per character (lower is better)")
    bars.set_title("First loss, held-out text", pad=18)
    for name, curve in curves.items():
        width, order = (4.0, 1) if name == "focus" else (1.3, 2)
        lines.plot(range(len(curve)), curve, color=COLOURS[name], linewidth=width, zorder=order, label=name)
    lines.axhline(old["held_out_loss"], color=GREY, linestyle="--", label="old model")
    lines.legend(frameon=False, ncols=2)
    lines.set(xlabel="steps done", ylabel="nats per character")
    lines.set_title("Training loss, the same text for all", pad=18)
    for axes in (bars, lines):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=100)


def main() -> None:
    """Read, write the three files, show the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="output folder of run.sh")
    parser.add_argument("--methods", nargs="+", required=True, choices=COLOURS, help="focus and others")
    given = parser.parse_args()
    figures, curves = collect(given.folder, given.methods)
    (given.folder / "results.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    (given.folder / "results.md").write_text(table(figures), encoding="utf-8")
    draw(figures, curves, given.folder / "results.png")
    print(table(figures))
    print(f"-> {(given.folder / 'results.json').resolve()}, results.md, results.png")


if __name__ == "__main__":
    main()
