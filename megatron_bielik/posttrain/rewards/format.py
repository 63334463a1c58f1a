r"""Reward for the form of an answer: one \boxed{...}, and nothing after it but what closes a formula or a sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from megatron_bielik.posttrain.rewards.boxed import all_boxed

_CLOSING = re.compile(r"\\[\])]|\\end\{[a-z]+\*?\}|</answer>|[\s.$*]+")


def boxed_format(completion: str, sample: Mapping[str, Any], boxes: float = 1, tail: float = 0) -> float:
    r"""1.0 where the form is right, else 0.0.

    Args:
        completion: What the model wrote.
        sample: Is not looked at.
        boxes: Number of \boxed{...} wanted; each must close and have something in it, none may stand in another.
        tail: Characters allowed after the last one, beside white space, full stops, `$`, `*`, `\]`, `\)`, `\end{...}`
            and `</answer>`.

    Raises:
        ValueError: boxes below 1.
    """
    if boxes < 1:
        raise ValueError(f"boxes is {boxes:g}, needs at least 1")
    found = all_boxed(completion)
    last = found[-1] if found else None
    if last is None or len(found) != boxes:
        return 0.0
    if any(box is None or not box.content.strip() or "\\boxed" in box.content for box in found):
        return 0.0
    return 1.0 if len(_CLOSING.sub("", completion[last.end :])) <= tail else 0.0
