"""Evaluate a Hugging Face model on Polish benchmarks with lm-evaluation-harness; scores are normalised against guessing."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from megatron_bielik.command import one_line_errors
from megatron_bielik.evaluation.polish_tasks import AVERAGES, data_folder, select

EXAMPLES = """examples:
  python tools/evaluate.py --model export/bielik --tasks polish --output scores/bielik                     (data from the Hub)
  python tools/evaluate.py --model export/bielik --tasks polish_mc --num-fewshot 0 --data datasets --output scores/bielik
  python tools/evaluate.py --model export/bielik --tasks polish --data fixtures --output scores/try  (does everything run?)
started again it goes on; docs/evaluation.md has the tasks, the data sets' columns and the formula
"""


def main() -> None:
    """Run, print two tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", type=Path, required=True, help="Hugging Face folder")
    add("--tasks", nargs="+", default=["polish"], help="polish (default), polish_mc, polish_gen, or names of tasks")
    add("--output", type=Path, required=True, help="folder for results.json and what is done")
    add("--data", help="folder of local data sets, or fixtures (ours, tiny: not the benchmarks); default: the Hub")
    add("--num-fewshot", type=int, default=5, choices=range(26), metavar="N", help="solved examples (default 5)")
    add("--limit", type=int, help="rows of a task, at most")
    add("--chat", action="store_true", help="ask by the model's chat template")
    add("--device", default="cpu", help="cpu (default), cuda, cuda:1")
    add("--batch-size", type=int, default=8, help="default 8")
    add(
        "--dtype",
        default="float32",
        choices=("float32", "bfloat16", "float16"),
        help="of the weights (default float32)",
    )
    args = parser.parse_args()
    with one_line_errors(ValueError):
        tasks = select(args.tasks)
        if not sys.stderr.isatty():
            os.environ.setdefault("TQDM_DISABLE", "1")  # lm-eval draws a bar for every task
        from megatron_bielik.evaluation import evaluate as run
        from megatron_bielik.evaluation.tables import tables

        options = run.Options(
            args.model,
            data_folder(args.data),
            args.num_fewshot,
            args.limit,
            args.chat,
            args.device,
            args.batch_size,
            args.dtype,
        )
        results = run.evaluate(options, tasks, args.output, lambda line: print(line, file=sys.stderr))
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 120)
    for table in tables(results):
        console.print(table)
    shown = ", ".join(f"{AVERAGES[name]} {value:.2f}" for name, value in results["averages"].items())
    print(f"{args.output}/{run.RESULT}: {shown}")


if __name__ == "__main__":
    main()
