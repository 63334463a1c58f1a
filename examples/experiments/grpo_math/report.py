"""Reads what the runs logged and writes results.json, results.md (a table) and plots/*.png.

The most likely answers are made again here, by other code, as a check of what was logged; sampled ones are made here alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from megatron_bielik.corpus.records import ReadCount, read_rows
from megatron_bielik.training.log import FILE_NAME, read_records

Records = list[dict[str, Any]]
RUNS = ("grpo", "gamed", "guarded")
SAMPLES = 8
# Okabe and Ito's colours.
BLUE, RED, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#7f7f7f"


def answers(folder: Path, rows: Records, tokens: int, samples: int = 0) -> list[list[str]]:
    """The most likely answer to each problem, or several sampled ones: a problem at a time, by other code than the trainer's."""
    import torch
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    way = {"do_sample": True, "top_k": 0, "num_return_sequences": samples} if samples else {"do_sample": False}
    texts = []
    for row in rows:
        ids = tokenizer.apply_chat_template(row["messages"], add_generation_prompt=True, return_dict=False)
        made = model.generate(torch.tensor([ids]), max_new_tokens=tokens, **way)
        texts.append(tokenizer.batch_decode(made[:, len(ids) :], skip_special_tokens=True))
    return texts


def right(texts: list[list[str]], rows: Records) -> float:
    """Share of answers whose last box holds the row's number."""
    judged = [
        text.rpartition("\\boxed{")[2].startswith(row["answer"] + "}")
        for some, row in zip(texts, rows, strict=True)
        for text in some
    ]
    return round(sum(judged) / len(judged), 4)


def curve(log: Records, kind: str, key: str) -> tuple[list[int], list[float]]:
    """Steps and values of one figure."""
    points = [(record["step"], record[key]) for record in log if record["type"] == kind and record.get(key) is not None]
    return [step for step, _ in points], [value for _, value in points]


def collect(folder: Path) -> tuple[dict[str, Any], dict[str, Records]]:
    """All figures, and the log of each run."""
    rows = [row for _, row in read_rows([str(folder / "valid.jsonl")], ReadCount())]
    logs = {run: list(read_records(folder / run / FILE_NAME)) for run in RUNS}
    tokens = next(record["config"] for record in logs["grpo"] if record["type"] == "run")["sampling"][
        "max_completion_tokens"
    ]
    before, after = (answers(folder / name / "final", rows, tokens) for name in ("sft", "grpo"))
    drawn = {name: right(answers(folder / name / "final", rows, tokens, SAMPLES), rows) for name in ("sft", "grpo")}
    gamed = answers(folder / "gamed/final", rows[:3], tokens)
    figures: dict[str, Any] = {
        "held_out_problems": len(rows),
        "right_after_sft": curve(logs["grpo"], "eval", "math_answer")[1][0],
        "right_after_sft_made_again": right(before, rows),
        "right_after_grpo": curve(logs["grpo"], "eval", "math_answer")[1][-1],
        "right_after_grpo_made_again": right(after, rows),
        "right_sampled": drawn,
        "examples": [
            {"problem": row["messages"][-1]["content"], "sft": one[0], "grpo": other[0], "answer": row["answer"]}
            for row, one, other in zip(rows[:3], before, after, strict=False)
        ],
        "gamed_answer": gamed[0][0],
    }
    for run, log in logs.items():
        steps, divergence = curve(log, "train", "kl")
        stop = [record["message"] for record in log if record["type"] == "event" and record["kind"] == "stop"]
        evaluated = {name: curve(log, "eval", name) for name in ("math_answer", "calculations_shown")}
        figures[run] = {
            "steps": steps[-1],
            "seconds_a_step": round(sorted(curve(log, "train", "step_seconds")[1])[len(steps) // 2], 3),
            "sampled_reward": [round(value, 3) for value in curve(log, "train", "reward")[1]],
            "kl": [round(value, 4) for value in divergence],
            "held_out": {name: dict(zip(*points, strict=True)) for name, points in evaluated.items() if points[0]},
            "stopped": stop[0] if stop else None,
        }
    return figures, logs


def table(figures: dict[str, Any]) -> str:
    """Markdown: what each run came to."""
    lines = [
        "| | steps | held out: most likely answer right | sampled answers right | largest KL | last KL | end |",
        "|---|--:|--:|--:|--:|--:|---|",
    ]
    lines.append(f"| after SFT | | {figures['right_after_sft']:.3f} | {figures['right_sampled']['sft']:.3f} | | | |")
    for run in RUNS:
        figure = figures[run]
        share = list(figure["held_out"].get("math_answer", {}).values())
        last = f"{share[-1]:.3f}" if share else ""
        sampled = f"{figures['right_sampled'][run]:.3f}" if run in figures["right_sampled"] else ""
        end = "stopped by the guard" if figure["stopped"] else "all steps done"
        lines.append(
            f"| {run} | {figure['steps']} | {last} | {sampled} | {max(figure['kl']):.3f} | {figure['kl'][-1]:.3f} | {end} |"
        )
    return "\n".join(lines) + "\n"


def draw_learning(logs: dict[str, Records], path: Path) -> None:
    """GRPO on the right answer: share right, sampled and held out, and the divergence below the guard."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    share, divergence = figure.subplots(1, 2)
    share.plot(
        *curve(logs["grpo"], "train", "rewards/math_answer/mean"),
        color=BLUE,
        alpha=0.4,
        label="sampled answers, each step",
    )
    steps, values = curve(logs["grpo"], "eval", "math_answer")
    share.plot(steps, values, "o-", color=RED, label="most likely answers, held out")
    share.set(ylim=(0, 1), xlabel="step", title="share right")
    share.legend(frameon=False, loc="lower right")
    _divergence(divergence, {"grpo": (logs["grpo"], BLUE)}, guard(logs["grpo"]))
    _save(figure, path)


def draw_gamed(logs: dict[str, Records], path: Path) -> None:
    """What a reward that can be gamed pays for, what the answers are worth, and the divergence with and without the guard."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    paid, divergence = figure.subplots(1, 2)
    paid.plot(*curve(logs["gamed"], "train", "reward"), color=BLUE, label="what is paid: calculations shown")
    paid.plot(*curve(logs["gamed"], "train", "rewards/math_answer/mean"), color=RED, label="share right")
    paid.set(ylim=(-0.02, 1.02), xlabel="step", title="sampled answers, guard off")
    paid.legend(frameon=False, loc="center right")
    _divergence(
        divergence, {"guard off": (logs["gamed"], RED), "guard on": (logs["guarded"], GREEN)}, guard(logs["guarded"])
    )
    divergence.set_yscale("symlog", linthresh=0.1)
    divergence.set_ylim(bottom=0)
    _save(figure, path)


def guard(log: Records) -> float:
    """loss.kl_limit of a run."""
    limit: float = next(record["config"]["loss"]["kl_limit"] for record in log if record["type"] == "run")
    return limit


def _divergence(axes: Axes, runs: dict[str, tuple[Records, str]], limit: float) -> None:
    for name, (log, colour) in runs.items():
        steps, values = curve(log, "train", "kl")
        axes.plot(steps, values, color=colour, label=name, marker="." if len(steps) < 40 else None)
    axes.axhline(limit, color=GREY, linestyle="--", label=f"loss.kl_limit {limit:g}")
    axes.set(xlabel="step", title="KL from the reference, nats per token")
    axes.legend(frameon=False)


def _save(figure: Figure, path: Path) -> None:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=90)


def main() -> None:
    """Read, write the files, show the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="output folder of run.sh")
    folder: Path = parser.parse_args().folder
    figures, logs = collect(folder)
    (folder / "results.json").write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "results.md").write_text(table(figures), encoding="utf-8")
    draw_learning(logs, folder / "plots" / "learning.png")
    draw_gamed(logs, folder / "plots" / "gamed.png")
    print(table(figures))
    print(f"-> {(folder / 'results.json').resolve()}, results.md, plots/")


if __name__ == "__main__":
    main()
