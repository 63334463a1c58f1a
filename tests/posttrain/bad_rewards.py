"""Reward functions that fail, for tests; run in the reward worker's own process."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any


def by_number(completion: str, sample: Mapping[str, Any]) -> float:
    """A value between 0 and 1 that differs from answer to answer."""
    return (sum(map(ord, completion)) % 97) / 97


def raises(completion: str, sample: Mapping[str, Any]) -> float:
    """Always raises."""
    raise KeyError("answer")


def not_a_number(completion: str, sample: Mapping[str, Any]) -> float:
    """NaN for about half of the answers, a value for the others."""
    value = by_number(completion, sample)
    return float("nan") if value < 0.4 else value


def hangs(completion: str, sample: Mapping[str, Any]) -> float:
    """Never returns for the first prompt."""
    while sample["id"] == 0:
        time.sleep(1)
    return by_number(completion, sample)


def gamed(completion: str, sample: Mapping[str, Any]) -> float:
    """Pays for one letter alone."""
    return completion.count("o") / 10
