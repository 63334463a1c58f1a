"""Arithmetic of a word problem as a tree: its exact value, the expression that gives it, and its working in Polish."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

Form = Literal["plain", "money", "fraction"]
_STRENGTH = {"+": 1, "-": 1, "*": 2, "/": 2}
_SHOWN = {"+": "+", "-": "−", "*": "·", "/": ":"}


@dataclass(eq=False)
class Term:
    """A number of the problem, or what comes of two terms.

    Args:
        value: Exact.
        operation: + - * or /, empty for a number.
        operands: The two terms.
        form: How it is written: plain, as an amount of money, or as a fraction even where it is a short decimal.
        settled: Whether a step has worked it out; later steps show its value.
    """

    value: Fraction
    operation: str = ""
    operands: tuple[Term, ...] = ()
    form: Form = "plain"
    settled: bool = False

    def __add__(self, other: Term | int) -> Term:
        return self._with("+", other)

    def __sub__(self, other: Term | int) -> Term:
        return self._with("-", other)

    def __mul__(self, other: Term | int) -> Term:
        return self._with("*", other)

    def __truediv__(self, other: Term | int) -> Term:
        return self._with("/", other)

    def _with(self, operation: str, other: Term | int) -> Term:
        right = other if isinstance(other, Term) else number(other)
        value = {
            "+": lambda: self.value + right.value,
            "-": lambda: self.value - right.value,
            "*": lambda: self.value * right.value,
            "/": lambda: self.value / right.value,
        }[operation]()
        form = self.form if right.form == "plain" else right.form
        return Term(value, operation, (self, right), form)

    def expression(self) -> str:
        """The term in numbers, with + - * / and parentheses, every number whole or as a decimal, or as (1/3)."""
        return self._written(False)

    def shown(self) -> str:
        """The term as a pupil writes it, settled parts by their values: 3 · 2,50 + 4."""
        return self._written(True)

    def _written(self, polish: bool, whole: bool = True) -> str:
        if not self.operation or (polish and self.settled and not whole):
            return polish_number(self.value, self.form) if polish else _decimal(self.value, self.form)
        parts = []
        for position, operand in enumerate(self.operands):
            text = operand._written(polish, False)
            own, inner = _STRENGTH[self.operation], _STRENGTH.get(operand.operation, 3)
            if polish and operand.settled:
                inner = 3
            if inner < own or (position == 1 and inner == own and (self.operation in "-/" or operand.operation == "/")):
                text = f"({text})"
            parts.append(text)
        return f" {_SHOWN[self.operation] if polish else self.operation} ".join(parts)


def number(value: int | Fraction) -> Term:
    """A number of the problem."""
    return Term(Fraction(value))


def price(grosze: int) -> Term:
    """An amount of money."""
    return Term(Fraction(grosze, 100), form="money")


def fraction(value: Fraction) -> Term:
    """A fraction, written as one."""
    return Term(value, form="fraction")


def _decimal(value: Fraction, form: Form) -> str:
    text = f"{value.numerator / value.denominator:.6f}".rstrip("0").rstrip(".")
    return text if Fraction(text) == value and form != "fraction" else f"({value})"


def polish_number(value: Fraction, form: Form = "plain") -> str:
    """A number as Polish writes it: 12, 12,5, 12 500, 3/4; an amount of money has no grosze or two digits of them."""
    if value.denominator == 1:
        text = str(abs(value.numerator))
        digits, rest = text, ""
    elif 1000000 % value.denominator == 0 and form != "fraction":
        digits, rest = f"{abs(value.numerator) / value.denominator:.6f}".rstrip("0").split(".")
        rest = "," + (rest.ljust(2, "0") if form == "money" else rest)
    else:
        return ("−" if value < 0 else "") + f"{abs(value.numerator)}/{value.denominator}"
    # Four digits stay together, as Polish spelling wants it.
    grouped = f"{int(digits):,}".replace(",", " ") if len(digits) > 4 else digits
    return ("−" if value < 0 else "") + grouped + rest


@dataclass
class Working:
    """A problem with its solution.

    Args:
        text: The problem.
        lines: Steps of the solution.
        answer: The term that is asked for.
    """

    text: str = ""
    lines: list[str] = field(default_factory=list)
    answer: Term = field(default_factory=lambda: number(0))

    def step(self, words: str, term: Term, unit: str = "") -> Term:
        """Write down how a term is worked out; later steps then show its value."""
        result = polish_number(term.value, term.form) + (f" {unit}" if unit else "")
        self.lines.append(f"{words}: {term.shown()} = {result}.")
        term.settled = True
        self.answer = term
        return term

    def answer_text(self) -> str:
        return polish_number(self.answer.value, self.answer.form)

    def solution(self) -> str:
        r"""The steps, one a line, and the answer in \boxed{...}."""
        return "\n".join([*self.lines, rf"Odpowiedź: \boxed{{{self.answer_text()}}}"])
