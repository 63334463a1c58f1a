"""A reward that sounds right and is easily gamed: it pays for each calculation shown, whether or not it is right or needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def calculations_shown(completion: str, sample: Mapping[str, Any], most: float = 10) -> float:
    """Equals signs in the answer, as a share of `most`; never above 1."""
    return min(completion.count("="), most) / most
