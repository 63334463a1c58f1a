"""Sums in words with worked answers, and pairs in which the rejected answer differs little, or much.

data.py --folder . --sft 6000 --pairs 2000 --held-out 300
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from megatron_bielik.corpus.records import dump, write_whole

NAMES = ("Ola", "Jan", "Ewa", "Piotr", "Zosia", "Tomek", "Kasia", "Adam", "Maja", "Marek")
THINGS = ("jabłek", "gruszek", "książek", "monet", "kredek", "piłek", "kwiatów", "orzechów")
FORM = r"\w+ \d+, \w+ \d+\. \d+ \+ \d+ = \d+, \d \+ \d = \d+\. Razem \d+\."
VALID_SHARE = 0.1
INVERTED = 0.05  # pairs whose scores say that the rejected answer is the better one, as raw data has them
Row = dict[str, Any]
Problem = tuple[str, str]


def problems(seed: int) -> Iterator[Problem]:
    """Questions and answers, no question twice: a sum of two numbers below 100, by tens and units."""
    rng, seen = Random(seed), set()
    while True:
        (one, other), thing = rng.sample(NAMES, 2), rng.choice(THINGS)
        first, second = rng.randint(10, 99), rng.randint(10, 99)
        question = f"{one} ma {first} {thing}, a {other} {second}. Ile mają razem?"
        if question in seen:
            continue
        seen.add(question)
        tens, units = (first // 10 * 10, second // 10 * 10), (first % 10, second % 10)
        work = f"{tens[0]} + {tens[1]} = {sum(tens)}, {units[0]} + {units[1]} = {sum(units)}"
        yield question, f"{one} {first}, {other} {second}. {work}. Razem {first + second}."


def one_change(answer: str, other: str, rng: Random) -> str:
    """The answer with one digit or name replaced by another."""
    place = rng.choice([*re.finditer(r"\d|\b(?:" + "|".join(NAMES) + r")\b", answer)])
    found = place[0]
    choices = "0123456789" if found.isdigit() else NAMES
    wrong = rng.choice([choice for choice in choices if choice != found])
    return answer[: place.start()] + wrong + answer[place.end() :]


def other_answer(answer: str, other: str, rng: Random) -> str:
    """The answer to another question: the same form, hardly a name or number in common."""
    return other


def other_words(answer: str, other: str, rng: Random) -> str:
    """A wrong result in a form that the model was never shown."""
    total = int(re.findall(r"\d+", answer)[-1])
    wrong = total + rng.choice((-10, -2, -1, 1, 2, 10))
    return rng.choice(("To będzie chyba {}, ale nie wiem.", "Nie liczę dokładnie: około {}.", "Pewnie {}!")).format(
        wrong
    )


KINDS: dict[str, Callable[[str, str, Random], str]] = {
    "one-change": one_change,
    "other-answer": other_answer,
    "other-words": other_words,
}


def conversation(problem: Problem) -> Row:
    question, answer = problem
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"kind": "suma", "messages": messages, "form": FORM}


def pair(problem: Problem, other: Problem, kind: str, rng: Random) -> Row:
    """A raw pair with scores of 0 to 10; some stand the wrong way round, as the scores tell."""
    question, answer = problem
    row: Row = {"prompt": question, "chosen": answer, "rejected": KINDS[kind](answer, other[1], rng)}
    scores = (9.0, 3.0)
    if rng.random() < INVERTED:
        row["chosen"], row["rejected"], scores = row["rejected"], row["chosen"], scores[::-1]
    return row | {"chosen_score": scores[0], "rejected_score": scores[1]}


def main() -> None:
    """Write sft.jsonl, held-out.jsonl, and raw-KIND.jsonl and raw-KIND-valid.jsonl for each kind of pair."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(), help="default: here")
    parser.add_argument("--sft", type=int, default=6000, help="conversations for SFT (default 6000)")
    parser.add_argument("--pairs", type=int, default=2000, help="of each kind (default 2000)")
    parser.add_argument("--held-out", type=int, default=300, help="questions kept for the end (default 300)")
    given = parser.parse_args()
    stream = problems(1)
    sets = {"sft": [conversation(one) for one in islice(stream, given.sft)]}
    asked = list(islice(stream, given.pairs))
    valid = max(1, int(VALID_SHARE * given.pairs))
    for kind in KINDS:
        rng = Random(f"pairs/{kind}")
        pairs = [pair(one, asked[number - 1], kind, rng) for number, one in enumerate(asked)]
        sets |= {f"raw-{kind}-valid": pairs[:valid], f"raw-{kind}": pairs[valid:]}
    sets["held-out"] = [conversation(one) for one in islice(stream, given.held_out)]
    for name, rows in sets.items():
        write_whole(given.folder / f"{name}.jsonl", b"".join(dump(one) for one in rows))
        print(f"{name}.jsonl: {len(rows):,} rows")


if __name__ == "__main__":
    main()
