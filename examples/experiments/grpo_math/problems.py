"""Level-1 problems with small numbers alone: problems.py --count 3000 --seed 1 --split train --form sft --output x.jsonl"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from megatron_bielik.corpus.records import dump, record_writer
from megatron_bielik.posttrain.problems import as_conversation, generate

LARGEST = 9
_DRAWN_FOR_ONE = 8  # more than one in eight problems of level 1 has small numbers alone


def small_problems(count: int, seed: int, split: Any) -> Iterator[dict[str, Any]]:
    """The first `count` problems of level 1 whose two numbers are at most LARGEST, without the instruction sentence."""
    drawn = generate(_DRAWN_FOR_ONE * count, levels=(1,), seed=seed, split=split, instruction="")
    fit = (row for row in drawn if max(map(int, re.findall(r"\d+", row["expression"]))) <= LARGEST)
    return islice(fit, count)


def main() -> None:
    """Write them, say what was written."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--output", type=Path, required=True, help="file to write")
    add("--count", type=int, required=True, help="problems")
    add("--seed", type=int, default=0, help="of the problems (default 0)")
    add("--split", choices=("train", "test"), required=True, help="never share a text")
    add("--form", choices=("grpo", "sft"), required=True, help="prompts with answers, or conversations")
    given = parser.parse_args()
    with record_writer(given.output) as stream:
        for row in small_problems(given.count, given.seed, given.split):
            stream.write(dump(as_conversation(row) if given.form == "sft" else row))
    print(f"{given.output}: {given.count:,} problems")


if __name__ == "__main__":
    main()
