"""Check digits: published specimens, faker's own numbers, single wrong digits, and sums written out a second way."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from faker import Faker

from megatron_bielik.corpus import identifiers as ids

FAKER = Faker("pl_PL")
FAKER.seed_instance(0)


@pytest.mark.parametrize(
    ("test", "number"),
    [
        (ids.is_pesel, "44051401359"),
        (ids.is_pesel, "02070803628"),
        (ids.is_nip, "1234563218"),
        (ids.is_regon, "123456785"),
        (ids.is_regon, "12345678512347"),
        (ids.is_iban, "GB82WEST12345698765432"),
        (ids.is_iban, "DE89370400440532013000"),
        (ids.is_iban, "PL61109010140000071219812874"),
        (ids.is_identity_card, "ABA300000"),
        (ids.is_passport, "ZS0000177"),
        (ids.is_card, "4111111111111111"),
    ],
)
def test_published_specimens(test: Callable[[str], bool], number: str) -> None:
    assert test(number)


@pytest.mark.parametrize(
    ("test", "draw"),
    [
        (ids.is_pesel, FAKER.pesel),
        (ids.is_nip, FAKER.nip),
        (ids.is_regon, FAKER.regon),
        (ids.is_regon, FAKER.local_regon),
        (ids.is_iban, FAKER.iban),
        (ids.is_identity_card, FAKER.identity_card_number),
    ],
)
def test_fakers_numbers_pass_and_no_single_wrong_digit_does(
    test: Callable[[str], bool], draw: Callable[[], str]
) -> None:
    rng = Random(0)
    wrong = 0
    for _ in range(300):
        number = draw()
        assert test(number)
        at = rng.randrange(4, len(number))
        other = str((int(number[at]) + rng.randint(1, 9)) % 10)
        wrong += test(number[:at] + other + number[at + 1 :])
    # A remainder of 10 is written as 0 in REGON, so a few wrong digits cannot be told there; nowhere else.
    assert wrong <= (15 if "regon" in test.__name__ else 0)


def test_weighted_sums_written_out() -> None:
    rng = Random(1)
    for _ in range(300):
        d = [rng.randint(0, 9) for _ in range(10)]
        text = "".join(map(str, d))
        odd, even = d[0] + d[4] + d[8], d[1] + d[5] + d[9]
        total = odd + 3 * even + 7 * (d[2] + d[6]) + 9 * (d[3] + d[7])
        assert ids.pesel_check(text) == str((10 - total % 10) % 10)
        nip = (6 * d[0] + 5 * d[1] + 7 * d[2] + 2 * d[3] + 3 * d[4] + 4 * d[5] + 5 * d[6] + 6 * d[7] + 7 * d[8]) % 11
        assert ids.nip_check(text[:9]) == (None if nip == 10 else str(nip))


@pytest.mark.parametrize(
    ("number", "born"),
    [
        ("44051401359", "1944-05-14"),
        ("02270803624", "2002-07-08"),
        ("99851000000", "1899-05-10"),
        ("00533000000", None),
    ],
)
def test_the_month_carries_the_century(number: str, born: str | None) -> None:
    birth = ids.pesel_birth(number)
    assert (birth.isoformat() if birth else None) == born


def test_days_that_do_not_exist() -> None:
    for first in ("0002300000", "0102290000", "4413010000", "9900100000", "8504310000"):
        assert not ids.is_pesel(first + ids.pesel_check(first))
    for first in ("0022290000", "0405010000"):  # 29 February 2000
        assert ids.is_pesel(first + ids.pesel_check(first))


@pytest.mark.parametrize(
    "test", [ids.is_pesel, ids.is_nip, ids.is_regon, ids.is_iban, ids.is_identity_card, ids.is_passport, ids.is_card]
)
@pytest.mark.parametrize(
    "value",
    [
        "",
        "1",
        "0" * 9,
        "0" * 10,
        "0" * 11,
        "0" * 14,
        "PL",
        "PL00",
        "٤٤٠٥١٤٠١٣٥٩",
        "ABC",
        "ąąą123456",
        "1" * 40,
        "a" * 11,
    ],
)
def test_nonsense_is_no_number(test: Callable[[str], bool], value: str) -> None:
    assert not test(value)
