"""Made-up values in the place of personal data: of the same kind and format, valid, the same for the same value and seed.

A value is reduced to what it says (digits and letters, "+48" left out), hashed with BLAKE2b under the seed as key, and the
hash draws the new one. The digits are poured into the separators of the old value, so "123-456-32-18" gives another NIP with
hyphens in the same places, and all spellings of a number give the same new number. Hosts and addresses of the network come
from ranges reserved for examples (RFC 2606, RFC 5737, RFC 3849); for telephone numbers Poland reserves none, so a substitute
may be somebody's.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from datetime import date, timedelta

from megatron_bielik.corpus import identifiers
from megatron_bielik.corpus import personal_data_patterns as patterns
from megatron_bielik.corpus.phones_and_addresses import AREAS, MOBILE

_LETTERS = "ABCDEFGHIJKLMNPRSTUVWXYZ"
_FIRST_WORDS = (
    "adam anna barbara ewa hanna igor jan julia karol lena maja marek marta monika ola paweł piotr tomek wanda zofia"
)
_FIRST = _FIRST_WORDS.split()
_LAST_WORDS = (
    "borek cichy dudek gajda jasny kania kula lis malec mazur nowak olszak pawlak rak sowa szulc tomala wilk wrona zych"
)
_LAST = _LAST_WORDS.split()
# Names in the genitive: they stand unchanged after "ulica", "ulicy" and "ul.".
_STREETS_WORDS = (
    "Asnyka Baczyńskiego Brzechwy Chopina Fredry Kasprowicza Kochanowskiego Kołłątaja Konopnickiej "
    "Kopernika Kościuszki Kraszewskiego Matejki Mickiewicza Moniuszki Norwida Orzeszkowej Paderewskiego "
    "Prusa Reja Reymonta Sienkiewicza Słowackiego Staszica Tuwima Wybickiego Wyspiańskiego Żeromskiego"
)
_STREETS = _STREETS_WORDS.split()
_TOWNS_WORDS = (
    "00:Warszawa 15:Białystok 20:Lublin 25:Kielce 30:Kraków 35:Rzeszów 40:Katowice 45:Opole 50:Wrocław "
    "60:Poznań 65:Zielona_Góra 70:Szczecin 80:Gdańsk 85:Bydgoszcz 87:Toruń 90:Łódź 10:Olsztyn"
)
_TOWNS = _TOWNS_WORDS.split()
_CODE_TOWN = re.compile(r"([0-9]{2}-[0-9]{3})([ \u00a0]+)(\S.*)", re.DOTALL)
_STREET_PARTS = re.compile(
    r"(\w+\.?[ \u00a0]?)(.*?)([ \u00a0,]+(?:(?:nr|numer\w*)[ ])?)([0-9]{1,4}[A-Za-z]?(?:\W.*)?)\Z", re.DOTALL
)


class _Draw:
    """A stream of numbers out of a keyed hash; the same everywhere, unlike random's."""

    def __init__(self, key: bytes, message: str) -> None:
        self._state = int.from_bytes(
            hashlib.blake2b(message.encode("utf-8", "replace"), key=key, digest_size=64).digest()
        )

    def below(self, limit: int) -> int:
        self._state, rest = divmod(self._state, limit)
        return rest

    def digits(self, count: int) -> str:
        return "".join(str(self.below(10)) for _ in range(count))

    def letters(self, count: int) -> str:
        return "".join(_LETTERS[self.below(len(_LETTERS))] for _ in range(count))


def normalised(kind: str, value: str) -> str:
    """What a value says, whatever its spelling; equal values get equal substitutes."""
    if kind in ("email", "url", "ipv6"):
        return value.lower()
    if kind == "address":
        return " ".join(re.findall(r"\w+", value.lower()))
    if kind == "ipv4":
        return value
    compact = patterns.compact(value)
    if kind == "phone":
        national = re.sub(r"\A0(?=[1-9][0-9]{8}\Z)", "", re.sub(r"\A(?:00)?48(?=0?[0-9]{9}\Z)", "", compact))
        return national.removeprefix("00")
    if kind == "iban" and len(compact) == 26 and compact.isdigit():
        return "PL" + compact
    if kind == "nip":
        return compact.removeprefix("PL")
    return compact


class Substitutes:
    """Draws substitutes.

    Args:
        seed: Another seed gives other substitutes; keep it secret where values must not be found by trying them out.
    """

    def __init__(self, seed: int = 0) -> None:
        self._key = hashlib.blake2b(str(seed).encode(), digest_size=32).digest()

    def make(self, kind: str, value: str) -> str:
        """A value of the kind in the format of `value`, never equal to it.

        Raises:
            KeyError: No such kind.
        """
        meaning, maker = normalised(kind, value), _MAKERS[kind]
        for attempt in range(1000):
            made = maker(_Draw(self._key, f"{kind}/{attempt}/{meaning}"), value, meaning)
            if made is not None and normalised(kind, made) != meaning:
                return made
        return f"<{kind.upper()}>"


def _pour(characters: str, template: str) -> str:
    """Put letters and digits in the places of those of the template, its small letters kept small."""
    left, out = iter(characters), []
    # "nr" between series and number is no part of it; its letters stay.
    for part in re.split(r"(\b(?:nr|numer)\b)", template):
        if part in ("nr", "numer"):
            out.append(part)
            continue
        for old in part:
            new = next(left, "") if old.isalnum() else old
            out.append(new.lower() if old.islower() else new)
    return "".join(out)


def _pesel(draw: _Draw, value: str, meaning: str) -> str:
    born = date(1940, 1, 1) + timedelta(days=draw.below(24_000))
    first = f"{born.year % 100:02d}{born.month + (20 if born.year > 1999 else 0):02d}{born.day:02d}{draw.digits(4)}"
    return _pour(first + identifiers.pesel_check(first), value)


def _nip(draw: _Draw, value: str, meaning: str) -> str | None:
    first = f"{1 + draw.below(9)}{1 + draw.below(9)}{1 + draw.below(9)}{draw.digits(6)}"
    check = identifiers.nip_check(first)
    prefix = "PL" if value[:2].upper() == "PL" else ""
    return None if check is None else _pour(prefix + first + check, value)


def _regon(draw: _Draw, value: str, meaning: str) -> str:
    number = f"{1 + draw.below(9)}{draw.digits(7)}"
    number += identifiers.regon_check(number)
    if len(meaning) == 14:
        number += draw.digits(4)
        number += identifiers.regon_check(number)
    return _pour(number, value)


def _iban(draw: _Draw, value: str, meaning: str) -> str:
    country = meaning[:2]
    account = "".join(draw.digits(1) if old.isdigit() else draw.letters(1) for old in meaning[4:])
    number = country + identifiers.iban_check(country, account) + account
    return _pour(number if value[:1].isalpha() else number[2:], value)


def _identity_card(draw: _Draw, value: str, meaning: str) -> str:
    letters, digits = draw.letters(3), draw.digits(5)
    return _pour(letters + identifiers.identity_card_check(letters, digits) + digits, value)


def _passport(draw: _Draw, value: str, meaning: str) -> str:
    letters, digits = draw.letters(2), draw.digits(6)
    return _pour(letters + identifiers.passport_check(letters, digits) + digits, value)


def _card(draw: _Draw, value: str, meaning: str) -> str:
    first = meaning[0] + draw.digits(len(meaning) - 2)
    return _pour(first + identifiers.card_check(first), value)


def _phone(draw: _Draw, value: str, meaning: str) -> str:
    if len(meaning) == 9:
        prefixes = sorted(MOBILE if meaning[:2] in MOBILE else AREAS)
        number = f"{prefixes[draw.below(len(prefixes))]}{1 + draw.below(9)}{draw.digits(6)}"
    elif len(meaning) < 9:
        number = f"{1 + draw.below(9)}{draw.digits(len(meaning) - 1)}"
    else:
        number = meaning[:2] + draw.digits(len(meaning) - 2)
    compact = re.sub(r"[^0-9]", "", value)
    return _pour(compact[: len(compact) - len(meaning)] + number, value)


def _ipv4(draw: _Draw, value: str, meaning: str) -> str:
    return f"{('192.0.2', '198.51.100', '203.0.113')[draw.below(3)]}.{1 + draw.below(254)}"


def _ipv6(draw: _Draw, value: str, meaning: str) -> str:
    groups = [f"{0x1000 + draw.below(0xF000):x}" for _ in range(6)]
    return ":".join(["2001", "db8", *groups])


def _name(draw: _Draw) -> str:
    plain = str.maketrans("ąćęłńóśźż", "acelnoszz")
    first, last = _FIRST[draw.below(len(_FIRST))], _LAST[draw.below(len(_LAST))]
    return f"{first}.{last}{draw.below(1000)}".translate(plain)


def _email(draw: _Draw, value: str, meaning: str) -> str:
    host = ("example.com", "example.org", "example.net")[draw.below(3)]
    return f"{_name(draw)}@{host}"


def _url(draw: _Draw, value: str, meaning: str) -> str:
    scheme = re.match(r"(?i)(?:[a-z]+://)?(?:www\.)?", value)
    rest = value[scheme.end() if scheme else 0 :]
    host = ("example.com", "example.org", "example.net")[draw.below(3)]
    path = "/" + "".join(draw.letters(2).lower() + draw.digits(2) for _ in range(2))
    # A host alone gets a path too: three hosts would make one of all sites.
    return f"{scheme[0] if scheme else ''}{host}{path}{'/' if rest.endswith('/') else ''}"


def _address(draw: _Draw, value: str, meaning: str) -> str | None:
    prefix, town = _TOWNS[draw.below(len(_TOWNS))].split(":")
    code = f"{prefix}-{1 + draw.below(9)}{draw.digits(2)}"
    found = _CODE_TOWN.search(value)
    end = f"{code}{found[2]}{town.replace('_', ' ')}" if found else ""
    head = value[: found.start()] if found else value
    if not head:
        return end
    parts = _STREET_PARTS.match(head)
    if not parts:
        return end or None
    street = _STREETS[draw.below(len(_STREETS))]
    # Only the numbers of house and flat change in what follows the name.
    numbers = re.sub(r"[0-9]+", lambda old: str(1 + draw.below(10 ** min(len(old[0]), 2))), parts[4])
    return f"{parts[1]}{street}{parts[3]}{numbers}{end}"


_Maker = Callable[[_Draw, str, str], str | None]
_MAKERS: dict[str, _Maker] = {
    "address": _address,
    "email": _email,
    "iban": _iban,
    "identity_card": _identity_card,
    "ipv4": _ipv4,
    "ipv6": _ipv6,
    "nip": _nip,
    "passport": _passport,
    "payment_card": _card,
    "pesel": _pesel,
    "phone": _phone,
    "regon": _regon,
    "url": _url,
}
