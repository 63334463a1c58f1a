"""A finding: what was looked at, how bad it is, the figure and its limit, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Severity(IntEnum):
    """How bad it is; a higher one is worse."""

    OK = 0
    NOTE = 1
    WARNING = 2
    PROBLEM = 3

    @property
    def word(self) -> str:
        """In lower case, for the reader."""
        return self.name.lower()


@dataclass(frozen=True)
class Finding:
    """One answer of one check.

    Attributes:
        check: What was looked at.
        severity: How bad it is.
        message: What was found, in plain words.
        value: Measured, where there is one figure.
        limit: What the value is compared with; none where nothing is.
        steps: Where in the run.
        advice: What to do.
        details: Further lines, such as documents.
    """

    check: str
    severity: Severity
    message: str
    value: float | None = None
    limit: float | None = None
    steps: tuple[int, ...] = ()
    advice: str = ""
    details: tuple[str, ...] = ()

    def as_record(self) -> dict[str, object]:
        """Plain data for JSON."""
        return {
            "check": self.check,
            "severity": self.severity.word,
            "message": self.message,
            "value": self.value,
            "limit": self.limit,
            "steps": list(self.steps),
            "advice": self.advice,
            "details": list(self.details),
        }


def graded(value: float, warning: float, problem: float) -> Severity:
    """Severity of a value that should be low. One that is no number is a problem."""
    if not value <= problem:
        return Severity.PROBLEM
    return Severity.WARNING if value > warning else Severity.OK


def first_steps(steps: tuple[int, ...], most: int = 8) -> str:
    """Step numbers as text: "step 3", "steps 3, 5 and 7 more"."""
    if len(steps) == 1:
        return f"step {steps[0]:,}"
    text = "steps " + ", ".join(f"{step:,}" for step in steps[:most])
    return text + (f" and {len(steps) - most} more" if len(steps) > most else "")
