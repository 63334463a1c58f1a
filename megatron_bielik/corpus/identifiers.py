"""Check digits of numbers that identify people and firms: PESEL, NIP, REGON, IBAN, identity card, passport, payment card.

Every test takes the number without separators and tells whether it could have been issued: length, alphabet, check digit
and, for PESEL, a day of birth that exists. Every `*_check` function gives the check digits of a number without them.

Sources: PESEL, the act of 24 September 2010 on population records (the month carries the century: 80 for 1800 to 1899, 0,
20, 40, 60 for the following); NIP and REGON, weights 657234567, 89234567 and 2485097361248 modulo 11; IBAN, ISO 13616 with
ISO 7064 MOD 97-10; identity card and passport, weights 731 repeated over letters (A is 10) and digits, as in ICAO Doc 9303;
payment cards, ISO/IEC 7812-1 (Luhn).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date

_CENTURIES = {0: 1900, 20: 2000, 40: 2100, 60: 2200, 80: 1800}
_PESEL = (1, 3, 7, 9, 1, 3, 7, 9, 1, 3)
_NIP = (6, 5, 7, 2, 3, 4, 5, 6, 7)
_REGON_9 = (8, 9, 2, 3, 4, 5, 6, 7)
_REGON_14 = (2, 4, 8, 5, 0, 9, 7, 3, 6, 1, 2, 4, 8)
# Weights without that of the check digit, which stands after the letters.
_IDENTITY_CARD = (7, 3, 1, 7, 3, 1, 7, 3)
_PASSPORT = (7, 3, 1, 7, 3, 1, 7, 3)

# Characters of a whole IBAN by country, from the registry of ISO 13616.
IBAN_LENGTHS = dict(
    pair.split(":")
    for pair in [
        "AD:24",
        "AE:23",
        "AL:28",
        "AT:20",
        "AZ:28",
        "BA:20",
        "BE:16",
        "BG:22",
        "BH:22",
        "BR:29",
        "BY:28",
        "CH:21",
        "CR:22",
        "CY:28",
        "CZ:24",
        "DE:22",
        "DK:18",
        "DO:28",
        "EE:20",
        "EG:29",
        "ES:24",
        "FI:18",
        "FO:18",
        "FR:27",
        "GB:22",
        "GE:22",
        "GI:23",
        "GL:18",
        "GR:27",
        "GT:28",
        "HR:21",
        "HU:28",
        "IE:22",
        "IL:23",
        "IQ:23",
        "IS:26",
        "IT:27",
        "JO:30",
        "KW:30",
        "KZ:20",
        "LB:28",
        "LC:32",
        "LI:21",
        "LT:20",
        "LU:20",
        "LV:21",
        "LY:25",
        "MC:27",
        "MD:24",
        "ME:22",
        "MK:19",
        "MR:27",
        "MT:31",
        "MU:30",
        "NL:18",
        "NO:15",
        "PK:24",
        "PL:28",
        "PS:29",
        "PT:25",
        "QA:29",
        "RO:24",
        "RS:22",
        "SA:24",
        "SC:31",
        "SD:18",
        "SE:24",
        "SI:19",
        "SK:24",
        "SM:27",
        "ST:25",
        "SV:28",
        "TL:23",
        "TN:24",
        "TR:26",
        "UA:29",
        "VA:22",
        "VG:24",
        "XK:20",
    ]
)

_DIGITS = re.compile(r"[0-9]+")
_IBAN = re.compile(r"[A-Z]{2}[0-9]{2}[A-Z0-9]+")
_LETTERS_3 = re.compile(r"[A-Z]{3}[0-9]{6}")
_LETTERS_2 = re.compile(r"[A-Z]{2}[0-9]{7}")


def _sum(characters: str, weights: Sequence[int]) -> int:
    """Weighted sum; digits count as they are, letters from A as 10."""
    return sum(int(character, 36) * weight for character, weight in zip(characters, weights, strict=True))


def _is_digits(number: str, length: int) -> bool:
    return len(number) == length and _DIGITS.fullmatch(number) is not None


def pesel_check(first: str) -> str:
    """The check digit of ten digits."""
    return str(-_sum(first, _PESEL) % 10)


def pesel_birth(number: str) -> date | None:
    """The day of birth in the first six digits, None if there is no such day."""
    month = int(number[2:4])
    try:
        return date(_CENTURIES[month // 20 * 20] + int(number[:2]), month % 20, int(number[4:6]))
    except ValueError:
        return None


def is_pesel(number: str) -> bool:
    """Eleven digits, a day of birth that exists, the right check digit."""
    return _is_digits(number, 11) and pesel_check(number[:10]) == number[10] and pesel_birth(number) is not None


def nip_check(first: str) -> str | None:
    """The check digit of nine digits; None where it would be 10, such numbers are not issued."""
    rest = _sum(first, _NIP) % 11
    return None if rest == 10 else str(rest)


def is_nip(number: str) -> bool:
    """Ten digits, the first not zero, the right check digit."""
    return _is_digits(number, 10) and number[0] != "0" and nip_check(number[:9]) == number[9]


def regon_check(first: str) -> str:
    """The check digit of eight or thirteen digits."""
    return str(_sum(first, _REGON_9 if len(first) == 8 else _REGON_14) % 11 % 10)


def is_regon(number: str) -> bool:
    """Nine digits, or fourteen that begin with such nine (a branch of the firm), and the right check digits."""
    if not number.strip("0") or not (_is_digits(number, 9) or _is_digits(number, 14)):
        return False
    short = regon_check(number[:8]) == number[8]
    return short and (len(number) == 9 or regon_check(number[:13]) == number[13])


def iban_check(country: str, account: str) -> str:
    """The two check digits of an account number (BBAN) in a country."""
    return f"{98 - _mod_97(account + country + '00'):02d}"


def is_iban(number: str) -> bool:
    """Country, check digits and account without separators, in capitals; length and remainder as they must be."""
    return (
        _IBAN.fullmatch(number) is not None
        and IBAN_LENGTHS.get(number[:2]) == str(len(number))
        and _mod_97(number[4:] + number[:4]) == 1
    )


def _mod_97(characters: str) -> int:
    return int("".join(str(int(character, 36)) for character in characters)) % 97


def identity_card_check(letters: str, digits: str) -> str:
    """The check digit of a Polish identity card, which stands between three letters and five digits."""
    return str(_sum(letters + digits, _IDENTITY_CARD) % 10)


def is_identity_card(number: str) -> bool:
    """Three capital letters and six digits, the first of them the check digit."""
    return _LETTERS_3.fullmatch(number) is not None and identity_card_check(number[:3], number[4:]) == number[3]


def passport_check(letters: str, digits: str) -> str:
    """The check digit of a Polish passport, which stands between two letters and six digits."""
    return str(_sum(letters + digits, _PASSPORT) % 10)


def is_passport(number: str) -> bool:
    """Two capital letters and seven digits, the first of them the check digit."""
    return _LETTERS_2.fullmatch(number) is not None and passport_check(number[:2], number[3:]) == number[2]


def card_check(first: str) -> str:
    """The Luhn digit of a payment card's number without it."""
    doubled = (2 * int(digit) if at % 2 == 0 else int(digit) for at, digit in enumerate(reversed(first)))
    return str(-sum(value - 9 if value > 9 else value for value in doubled) % 10)


def is_card(number: str) -> bool:
    """Thirteen to nineteen digits, a first digit of the card networks (2 to 6), the right check digit."""
    return (
        13 <= len(number) <= 19
        and _DIGITS.fullmatch(number) is not None
        and number[0] in "23456"
        and card_check(number[:-1]) == number[-1]
    )
