r"""The \boxed{...} answers of a text, braces counted; in time linear in the text."""

from __future__ import annotations

import re
from typing import NamedTuple

_OPENING = re.compile(r"\\boxed\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


class Box(NamedTuple):
    r"""One \boxed{...}: what stands in it, and the index of the first character after it."""

    content: str
    end: int


def all_boxed(text: str) -> list[Box | None]:
    r"""Every \boxed{...} that is not inside another, in order; None for one that never closes (it is then the last)."""
    boxes: list[Box | None] = []
    position = 0
    while opening := _OPENING.search(text, position):
        box = _read(text, opening.end())
        boxes.append(box)
        if box is None:
            break
        position = box.end
    return boxes


def last_boxed(text: str) -> str | None:
    r"""What stands in the last \boxed{...}; of nested ones the innermost. None where there is none or it never closes."""
    last = None
    for last in _OPENING.finditer(text):  # noqa: B007 (the last one is what is wanted)
        pass
    box = None if last is None else _read(text, last.end())
    return None if box is None else box.content


def _read(text: str, start: int) -> Box | None:
    depth = 1
    for brace in _BRACE.finditer(text, start):  # a backslash takes its character with it: \{ is no brace
        if brace.group() == "{":
            depth += 1
        elif brace.group() == "}":
            depth -= 1
            if depth == 0:
                return Box(text[start : brace.start()], brace.end())
    return None
