r"""Polish arithmetic word problems with worked answers, any number of them, each by its seed and index.

What they say is simple; what they are for is a reward that can be checked: the answer is computed from the same terms
as the text, and the expression that gives it is kept beside it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import islice
from random import Random
from typing import Any, Literal

from megatron_bielik.posttrain import problem_templates, problem_templates_hard

LEVELS = problem_templates.LEVELS | problem_templates_hard.LEVELS
INSTRUCTION = r"Rozwiąż krok po kroku i podaj wynik w \boxed{}."
Split = Literal["train", "test"]
_TEST_SHARE = 10
_ATTEMPTS = 1000
_DRAWN_FOR_ONE = 8  # with `largest`: more than one in eight problems of level 1 has numbers below 10 alone


class ProblemError(ValueError):
    """Problems that cannot be made; the message is one line for the user."""


def split_of(text: str) -> Split:
    """The split that a problem's text (without instruction) belongs to; one in ten is for tests, whatever the seed."""
    digest = blake2b(text.encode(), digest_size=8).digest()
    return "test" if int.from_bytes(digest, "big") % _TEST_SHARE == 0 else "train"


def generate(
    count: int,
    levels: Sequence[int] = (1, 2, 3, 4, 5),
    seed: int = 0,
    split: Split | None = None,
    instruction: str = INSTRUCTION,
    largest: int | None = None,
) -> Iterator[dict[str, Any]]:
    r"""Problems number 0 to count - 1; the same arguments always give the same ones, and a larger count the same and more.

    Args:
        count: Problems.
        levels: Taken in turn: 1 one sum or difference below 20, 2 two steps below 100, 3 multiplication, division and
            prices, 4 percentages, fractions and three steps, 5 averages, time and two unknowns.
        seed: Chooses the problems.
        split: train or test, which never share a text; None for both together.
        instruction: Put behind the text, "" for none.
        largest: Only problems whose expression has no number above; None for all.

    Yields:
        {"id", "level", "messages": [{"role": "user", "content"}], "answer": in Polish notation ("12,50", "3/4"),
        "solution": the steps, ending with \boxed{answer}, "expression": the answer in numbers, + - * / and parentheses}.
        No text comes twice.

    Raises:
        ProblemError: A level, count or split that does not exist, or more problems than the levels have.
    """
    if count < 0:
        raise ProblemError(f"--count is {count}, needs 0 or more")
    if split not in (None, "train", "test"):
        raise ProblemError(f"--split is {split!r}, needs train or test")
    if unknown := [level for level in levels if level not in LEVELS]:
        raise ProblemError(f"--levels has {unknown[0]!r}, needs levels from {min(LEVELS)} to {max(LEVELS)}")
    if not levels:
        raise ProblemError("--levels is empty, needs at least one level")
    made = _generate(levels, seed, split, instruction)
    if largest is None:
        return islice(made, count)
    return islice(_small(islice(made, _DRAWN_FOR_ONE * count), count, largest), count)


def _small(problems: Iterable[dict[str, Any]], count: int, largest: int) -> Iterator[dict[str, Any]]:
    found = 0
    for problem in problems:
        if max(map(int, re.findall(r"\d+", problem["expression"]))) <= largest:
            found += 1
            yield problem
    if found < count:
        raise ProblemError(
            f"--largest is {largest}, which leaves {found:,} of {count:,} problems; raise it or lower --count"
        )


def _generate(levels: Sequence[int], seed: int, split: Split | None, instruction: str) -> Iterator[dict[str, Any]]:
    seen: set[bytes] = set()
    for index in itertools.count():
        level = levels[index % len(levels)]
        for attempt in range(_ATTEMPTS):
            rng = Random(f"{seed}/{level}/{index}/{attempt}")
            work = rng.choice(LEVELS[level])(rng)
            digest = blake2b(work.text.encode(), digest_size=8).digest()
            if digest not in seen and split in (None, split_of(work.text)):
                break
        else:
            raise ProblemError(f"level {level} has no new problem after {index}; ask for fewer, --count")
        seen.add(digest)
        yield {
            "id": f"zadanie-{seed}-{index}",
            "level": level,
            "messages": [{"role": "user", "content": f"{work.text} {instruction}".strip()}],
            "answer": work.answer_text(),
            "solution": work.solution(),
            "expression": work.answer.expression(),
        }


def as_conversation(problem: Mapping[str, Any]) -> dict[str, Any]:
    """A problem as a row for instruction tuning: the user's message and the solution as the assistant's."""
    answer = {"role": "assistant", "content": problem["solution"]}
    return {"id": problem["id"], "messages": [*problem["messages"], answer]}


def as_pair(problem: Mapping[str, Any]) -> dict[str, Any]:
    """A problem as a preference pair: the solution, and the same with another last digit of the answer wherever it stands.

    Scores are 10 and 0.
    """
    answer, solution = problem["answer"], problem["solution"]
    *_, digit = re.finditer(r"\d", answer)
    wrong = answer[: digit.start()] + str((int(digit[0]) + 1) % 10) + answer[digit.end() :]
    alone = re.compile(rf"(?<![\d,]){re.escape(answer)}(?![\d,]\d|\d)")
    return {
        "id": problem["id"],
        "prompt": problem["messages"],
        "chosen": solution,
        "rejected": alone.sub(lambda _: wrong, solution),
        "chosen_score": 10.0,
        "rejected_score": 0.0,
    }
