"""Write Polish arithmetic word problems with their answers, for reinforcement learning, instruction tuning or preferences."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from megatron_bielik.command import one_line_errors
from megatron_bielik.corpus.records import dump, record_writer
from megatron_bielik.posttrain.problems import INSTRUCTION, ProblemError, as_conversation, as_pair, generate

EXAMPLES = """examples:
  python tools/generate_problems.py --output train.jsonl --count 20000 --split train
  python tools/generate_problems.py --output test.jsonl --count 500 --split test --levels 3,4
  python tools/generate_problems.py --output sft.jsonl.zst --count 5000 --levels 1,2 --form sft
  python tools/generate_problems.py --output pairs.jsonl --count 2000 --form dpo      (right answers against wrong ones)
levels: 1 one sum or difference, 2 two steps, 3 multiplication, division, prices, 4 percentages, fractions, 5 averages,
time, two unknowns. Problems of the two splits never have the same text, whatever the seed.
"""
FORMS: dict[str, Callable[[Mapping[str, Any]], Any]] = {"grpo": dict, "sft": as_conversation, "dpo": as_pair}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--output", type=Path, required=True, help=".jsonl, .jsonl.gz or .jsonl.zst")
    add("--count", type=int, default=1000, help="problems (default 1000)")
    add("--levels", default="1,2,3,4,5", help="taken in turn (default 1,2,3,4,5)")
    add("--seed", type=int, default=0, help="chooses the problems (default 0)")
    add("--split", choices=("train", "test"), help="default: both together")
    add("--form", choices=FORMS, default="grpo", help="prompts with answers (default), conversations, or pairs")
    add("--instruction", default=INSTRUCTION, help="put behind each problem (default asks for \\boxed{}; '' for none)")
    add("--largest", type=int, help="only problems whose numbers are at most this, such as 9")
    args = parser.parse_args()
    with one_line_errors(ValueError):
        try:
            levels = [int(level) for level in args.levels.split(",")]
        except ValueError as error:
            raise ProblemError(f"--levels is {args.levels!r}, needs numbers from 1 to 5, such as 1,2") from error
        problems = generate(args.count, levels, args.seed, args.split, args.instruction, args.largest)
        with record_writer(args.output) as stream:
            for problem in problems:
                stream.write(dump(FORMS[args.form](problem)))
    print(f"{args.output}: {args.count:,} problems of levels {args.levels}")


if __name__ == "__main__":
    main()
