"""What a run says of one reward: which function, how much it weighs, its options."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


class RewardError(ValueError):
    """Rewards that cannot be used; the message is one line for the user."""


@dataclass(frozen=True)
class RewardSpec:
    """One reward of a run.

    Args:
        name: math_answer, choice, tool_call, format, length, or your own as package.module:function.
        weight: What its value is multiplied by in the sum.
        options: Given to the function by name at each call.

    Raises:
        RewardError: A weight or an option that is no finite number.
    """

    name: str
    weight: float = 1.0
    options: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what, value in [("weight", self.weight), *self.options.items()]:
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise RewardError(f"reward {self.name!r}: {what} is {value!r}, needs a finite number")
