"""The conversations: texts and counting for the base model; short answers to long texts and long lists for fine-tuning.

data.py --folder . --base 6000 --train 1600 --valid 200
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from random import Random

from megatron_bielik.corpus.records import dump, write_whole
from megatron_bielik.posttrain.form_tasks import LISTS, Row, held_out_rows, row, sentences, tuning_rows


def base_rows(seed: int) -> Iterator[Row]:
    """Texts to be written, and lists as they are said: the base model knows the words of both tasks, not the tasks."""
    rng = Random(f"base/{seed}")
    for index in count():
        if rng.random() < 0.3:
            name = rng.choice(sorted(LISTS))
            yield row("wyliczanka", f"{name.capitalize()}?", LISTS[name], ".+")
        else:
            yield row("tekst", "Napisz tekst.", sentences(seed, index, rng, 2, 3)[0], ".+")


def main() -> None:
    """Write base.jsonl, train.jsonl, valid.jsonl and held-out.jsonl."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(), help="default: here")
    parser.add_argument("--base", type=int, default=6000, help="conversations for the base model (default 6000)")
    parser.add_argument("--train", type=int, default=1600, help="conversations to tune on (default 1600)")
    parser.add_argument(
        "--valid", type=int, default=200, help="in valid, topics and at most lists in held-out (default 200)"
    )
    given = parser.parse_args()
    tuning = tuning_rows(2)
    sets = {
        "base": list(islice(base_rows(1), given.base)),
        "train": list(islice(tuning, given.train)),
        "valid": list(islice(tuning, given.valid)),
        "held-out": held_out_rows(3, given.valid),
    }
    for name, rows in sets.items():
        write_whole(given.folder / f"{name}.jsonl", b"".join(dump(one) for one in rows))
        print(f"{name}.jsonl: {len(rows):,} conversations")


if __name__ == "__main__":
    main()
