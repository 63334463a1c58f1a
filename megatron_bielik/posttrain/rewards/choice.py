"""Reward for multiple choice: the one letter, A to E, that the completion gives as its answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from megatron_bielik.posttrain.rewards.boxed import all_boxed

# "Odpowiedź: B", "odpowiedź to (B)", "Prawidłowa odpowiedź brzmi **B**", "Odp. B", "Answer: B", and "... odpowiedź B."
_SAID = re.compile(
    r"\b(?:odpowied[źz]|odp\.?|answer)\**(?:\s*:|\s+(?:to|jest|brzmi|is)\b:?|)[\s*_(\"„]*([A-E])(?!\w)(?P<rest>[^\n]{0,80})",
    re.IGNORECASE,
)
_FIRM = re.compile(r":|\b(?:to|jest|brzmi|is)\b", re.IGNORECASE)
_MORE = re.compile(r"\s*[)\"*_]*\s*(?:,|/|\bi\b|\boraz\b|\blub\b|\balbo\b|\band\b|\bor\b)\s*[(\"*_]*([A-E])(?!\w)")
_CLOSED = re.compile(r"[\s.)*_\"”!]*$")
_ALONE = re.compile(r"[\s(*_\"„$]*(?:\\text(?:bf)?\{)?([A-Ea-e])\}?[\s.):*_\"”$]*\Z")
_LABEL = re.compile(r"^[ \t(*_]*([A-E])[.)](?=[\s*_]|$)", re.MULTILINE)


def choice(completion: str, sample: Mapping[str, Any]) -> float:
    r"""1.0 where the completion answers with the letter sample["answer"] and no other, else 0.0.

    An answer is \boxed{B}, or "Odpowiedź: B", "odpowiedź to B", "Answer: B" and the like; where there is neither, a text
    that is the letter alone ("B", "(B)", "B."), or lines that begin with "B." or "B)". Two different letters give 0.0.

    Raises:
        ValueError: sample["answer"] is no letter from A to E.
    """
    wanted = sample.get("answer")
    if not isinstance(wanted, str) or not re.fullmatch(r"[A-Ea-e]", wanted.strip()):
        raise ValueError(f"answer of the sample is {wanted!r:.60}, needs a letter from A to E")
    return 1.0 if _letters(completion) == {wanted.strip().upper()} else 0.0


def _letters(text: str) -> set[str]:
    """The letters that the text gives as its answer; "?" for a box with something else in it."""
    letters = set()
    for box in all_boxed(text):
        alone = _ALONE.match(box.content) if box is not None else None
        letters.add(alone[1].upper() if alone else "?")
    for said in _SAID.finditer(text):
        letter, rest = said[1], said["rest"]
        # A small letter is a word (a, i), and a letter in the middle of a sentence is only talked about.
        if not letter.isupper() or not (_FIRM.search(said[0][: said.start(1) - said.start()]) or _CLOSED.match(rest)):
            continue
        letters.add(letter)
        while more := _MORE.match(rest):
            letters.add(more[1])
            rest = rest[more.end() :]
    if letters:
        return letters
    if alone := _ALONE.match(text):
        return {alone[1].upper()}
    return set(_LABEL.findall(text))
