"""Numbers of Polish texts: notations, signs, spaces, fractions, units, and texts that mean no number."""

from __future__ import annotations

import time
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_bielik.posttrain.rewards.numbers import UNITS, Number, parse_number, same_number

HALF = Fraction(1, 2)


def value(text: str) -> Fraction | None:
    number = parse_number(text)
    return None if number is None else number.value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("7", 7),
        ("007", 7),
        ("1234.5", "1234.5"),
        ("1234,5", "1234.5"),
        ("1 234,5", "1234.5"),
        ("1\u00a0234,5", "1234.5"),
        ("1\u202f234\u2009567,25", "1234567.25"),
        (r"1\,234{,}5", "1234.5"),
        ("1.234,56", "1234.56"),
        ("1,234.56", "1234.56"),
        ("1.234.567", 1234567),
        ("1,234,567", 1234567),
        ("12.345.678,9", "12345678.9"),
        (",5", "0.5"),
        ("0,50", "0.5"),
        ("5.", 5),
        ("  5\n", 5),
        ("$5$", 5),
        ("+5", 5),
        ("-5", -5),
        ("- 5", -5),
        ("\u22125", -5),
        ("–5,5", "-5.5"),
        ("3/4", "3/4"),
        ("3 / 4", "3/4"),
        ("-3/4", "-3/4"),
        ("1,5/3", "1/2"),
        ("1 234/2", 617),
        ("1 000/3", "1000/3"),
        ("1 3/4", "7/4"),
        ("-1 3/4", "-7/4"),
        ("½", "1/2"),
        ("1½", "3/2"),
        ("2 ¾", "11/4"),
        ("3⁄4", "3/4"),
        (r"\frac{3}{4}", "3/4"),
        (r"\dfrac{3}{4}", "3/4"),
        (r"\tfrac34", "3/4"),
        (r"-\frac{3}{4}", "-3/4"),
        (r"\frac{-3}{4}", "-3/4"),
        (r"1\frac{3}{4}", "7/4"),
        (r"1 \frac{3}{4}", "7/4"),
        (r"\frac{1 234}{2}", 617),
        (r"1,2 \cdot 10^3", 1200),
        (r"1{,}5 \times 10^{-2}", "0.015"),
        ("x = 5", 5),
        ("x=-2,5", "-2.5"),
        (r"\text{5}", 5),
        (r"\mathbf{12}", 12),
        ("1 234,50 zł", "1234.5"),
        ("12,50zł", "12.5"),
        (r"12{,}50\text{ zł}", "12.5"),
        (r"12\ \mathrm{km}", 12),
        ("15 jabłek", 15),
        ("15 czerwonych jabłek", 15),
        ("2,5 tys. zł", 2500),
        ("3 mln", 3000000),
        ("25%", 25),
        (r"25\%", 25),
        ("25 procent", 25),
        ("5 km/h", 5),
        ("30°", 30),
        (r"30^\circ", 30),
        ("16 cm^2", 16),
    ],
)
def test_number(text: str, expected: int | str) -> None:
    assert value(text) == Fraction(expected)


def test_a_mark_that_stands_once_is_the_decimal_mark() -> None:
    assert value("1.234") == value("1,234") == Fraction(1234, 1000)
    assert value("0.500") == HALF
    assert value("1 234") == 1234


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "-", "zł", "jeden", "x", "3x", "3 x", "2 pi", r"2\pi", r"\sqrt{2}", "5 lub 6", "5 albo więcej", "5, 6", "5; 6",
        "12 5", "1 2345", "1.23.4", "1.2345.678", "1,23,456", "1.234.56", "1.234,567.8", "3/0", r"\frac{3}{0}", "3/4/5", "3 + 4",
        "3·4", "2^3", "1 5/3", "--5", "5-", "5 - 3", "nan", "inf", "Infinity", "1e5", "0x10", "1_000", "٣", "５", "5 zł 6",
        "5 i pół", "5 nie 6", "około 5", "{5}}", r"\boxed{5}", "5 a b c d e", "9" * 81, "1 " * 200, r"1 \cdot 10^{999}",
        "5 km\n6 km",
        "5\x00", "😀", "5😀", "\ud800",
    ],
)  # fmt: skip
def test_no_number(text: str) -> None:
    assert parse_number(text) is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("12,50", "12.5 zł", True),
        ("12,50 zł", "12,5", True),
        ("12,50 zł", "1250 gr", True),
        ("1,5 km", "1500 m", True),
        ("1,5 km", "1,5 m", False),
        ("1,5 km", "1,5 kg", False),
        ("2 godziny", "120 minut", True),
        ("20%", "20", True),
        ("20", "20%", True),
        ("20%", "0,2", True),
        ("0,2", "20%", True),
        ("0,2", "20", False),
        ("20%", "1/5", True),
        ("1/3", "0,33", False),
        ("3/4", "0,75", True),
        ("5", "-5", False),
        ("36 km/h", "10 m/s", True),
        ("15 jabłek", "15", True),
    ],
)
def test_same(one: str, other: str, same: bool) -> None:
    wanted, got = parse_number(one), parse_number(other)
    assert wanted is not None
    assert got is not None
    assert same_number(wanted, got) is same


def test_tolerance_is_relative_to_the_wanted_number() -> None:
    third = Number(Fraction(1, 3))
    assert same_number(third, Number(Fraction(33, 100)), 0.01 + 1e-9)
    assert not same_number(third, Number(Fraction(33, 100)), 0.009)
    assert not same_number(Number(Fraction(0)), Number(Fraction(1, 10**9)), 0.5)


@settings(max_examples=300, deadline=None)
@given(
    st.decimals(min_value=0, max_value=10**9, places=3, allow_nan=False),
    st.sampled_from([" ", "\u00a0", "\u202f", "\u2009", "\\,", "~", ""]),
    st.sampled_from(["", "-", "−"]),
)
def test_what_polish_writes_is_read(number: Decimal, space: str, sign: str) -> None:
    text = sign + f"{number:,}".replace(",", space).replace(".", ",")
    expected = Fraction(number) * (-1 if sign else 1)
    assert value(text) == expected
    assert value(text + " zł") == expected


@settings(max_examples=500, deadline=None)
@given(st.text(st.sampled_from("0123456789 .,/-\\{}fracboxed%złkm·^10½\u00a0"), max_size=90))
def test_any_text_gives_a_number_or_none(text: str) -> None:
    number = parse_number(text)
    assert number is None or isinstance(number.value, Fraction)


def test_hostile_texts_take_no_time() -> None:
    begun = time.perf_counter()
    for text in (
        "1 " * 100_000,
        "9" * 1_000_000,
        "1 234" * 60,
        "\\frac{" * 50,
        " " * 300,
        "1.1" * 26,
        "1 000" * 16 + "x",
    ):
        parse_number(text)
    assert time.perf_counter() - begun < 0.5


def test_units_are_consistent() -> None:
    for name, _, size in UNITS.values():
        assert UNITS[name][0] == name
        assert size > 0
