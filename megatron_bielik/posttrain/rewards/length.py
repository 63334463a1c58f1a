"""Reward for not being long: 1 up to a limit, from there falling in a line to 0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def length(completion: str, sample: Mapping[str, Any], limit: float = 2000, end: float = 4000) -> float:
    """1.0 up to `limit` characters, falling linearly to 0.0 at `end`; both in characters (code points).

    Raises:
        ValueError: Not 0 <= limit <= end.
    """
    if not 0 <= limit <= end:
        raise ValueError(f"limit is {limit:g} and end {end:g}, needs 0 <= limit <= end")
    size = len(completion)
    if size <= limit:
        return 1.0
    return 0.0 if size >= end else (end - size) / (end - limit)
