r"""Reward for the right answer in \boxed{...}: by Polish numbers first, then by math-verify.

math-verify: Kydlíček, "Math-Verify", 2025; it reads LaTeX into sympy and compares expressions, sets and intervals.
"""

from __future__ import annotations

import logging
import math
import re
import threading
from collections.abc import Mapping
from typing import Any

from math_verify import LatexExtractionConfig, parse, verify

from megatron_bielik.posttrain.rewards.boxed import last_boxed
from megatron_bielik.posttrain.rewards.numbers import Number, parse_number, same_number

_LONGEST = 500
_DECIMAL_COMMA = re.compile(r"(?<=[0-9])(?:,|\{,\})(?=[0-9])")
# Only what stands in the box, as a whole: by its defaults math-verify looks for numbers in any text.
_LATEX = [LatexExtractionConfig(try_extract_without_anchor=False)]

# It warns of every text that it cannot read, and models write many.
logging.getLogger("math_verify").setLevel(logging.CRITICAL)


def math_answer(completion: str, sample: Mapping[str, Any], tolerance: float = 0.0, seconds: float = 3) -> float:
    r"""1.0 where the last \boxed{...} of the completion means sample["answer"], else 0.0.

    A number outside \boxed{...} counts not. Where both are numbers as Polish writes them (see numbers.py) their values
    decide; otherwise equal texts are equal, and math-verify decides the rest. A box of more than 500 characters is wrong.

    Args:
        completion: What the model wrote.
        sample: sample["answer"] is a str or a number, Polish or LaTeX, with or without a \boxed{...} of its own.
        tolerance: Allowed difference of numbers, relative to the wanted one.
        seconds: For each of the three steps of math-verify (two texts read, then compared), rounded up to whole ones; in
            the main thread only. What takes longer is wrong.

    Raises:
        ValueError: sample["answer"] is missing or empty, or seconds is not positive.
    """
    answer = sample.get("answer")
    if isinstance(answer, bool) or not isinstance(answer, str | int | float) or not str(answer).strip():
        raise ValueError(f"answer of the sample is {answer!r:.60}, needs text or a number")
    if seconds <= 0:
        raise ValueError(f"seconds is {seconds:g}, needs a positive number")
    box = last_boxed(completion)
    if box is None or not box.strip() or len(box) > _LONGEST:
        return 0.0
    wanted = last_boxed(str(answer)) or str(answer)
    number, got = parse_number(wanted), parse_number(box)
    if number is not None and got is not None:
        return 1.0 if same_number(number, got, tolerance) else 0.0
    # The fold drops spaces, which would make the two numbers of "1, 5" the one of "1,5".
    if number is None and _folded(wanted) == _folded(box):
        return 1.0
    return 1.0 if _verified(wanted, number, box, math.ceil(seconds)) else 0.0


def _folded(text: str) -> str:
    return "".join(text.split()).strip("$.").casefold()


def _foreign(text: str) -> str:
    """Polish intervals and sets as math-verify knows them: ⟨0,5; 2) becomes [0.5, 2)."""
    text = text.replace(r"\;", " ")
    for polish, foreign in (("⟨", "["), ("⟩", "]"), (r"\langle", "["), (r"\rangle", "]")):
        text = text.replace(polish, foreign)
    return _DECIMAL_COMMA.sub(".", text).replace(";", ",") if ";" in text else text


def _verified(wanted: str, number: Number | None, box: str, limit: int) -> bool:
    if number is not None:
        # math-verify reads 1,5 as the set of 1 and 5; where one number is wanted the comma can only be a decimal mark.
        wanted, box = str(number.value), _DECIMAL_COMMA.sub(".", box)
    wanted, box = _foreign(wanted), _foreign(box)
    # Its time limits are signals, which only the main thread may set.
    seconds = limit if threading.current_thread() is threading.main_thread() else None
    try:
        gold, target = (
            parse(
                r"$\boxed{" + text.replace("$", "") + "}$",
                extraction_config=_LATEX,
                fallback_mode="no_fallback",
                extraction_mode="first_match",
                parsing_timeout=seconds,
            )
            for text in (wanted, box)
        )
        return bool(gold and target and verify(gold, target, timeout_seconds=seconds))
    except (
        Exception
    ):  # sympy raises nearly anything on what models write; whatever it cannot compare is no right answer
        return False
