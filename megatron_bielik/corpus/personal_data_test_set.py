"""Sentences with personal data in known places, and look-alikes without any: what anonymisation is measured on.

Values come from faker (pl_PL), which knows nothing of this package's patterns, and from formats that people write beside
it; sentences are our own, with the words around inflected. The same seed gives the same sentences. Nothing here is data of
a person: every value is drawn.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from megatron_bielik.corpus import identifiers
from megatron_bielik.corpus.personal_data_sentences import LOOK_ALIKES, MIXED, SENTENCES

if TYPE_CHECKING:
    from megatron_bielik.corpus.anonymise import Anonymiser


@dataclass(frozen=True)
class Example:
    """A text and the (kind, start, stop) of the personal data in it, in characters."""

    text: str
    spans: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Score:
    """How a kind was found: spans in the set, spans found, and those of them that are equal to the character."""

    expected: int
    found: int
    equal: int

    @property
    def precision(self) -> float:
        """Share of what was found that is right; 1 if nothing was."""
        return self.equal / self.found if self.found else 1.0

    @property
    def recall(self) -> float:
        """Share of what there is that was found; 1 if there is nothing."""
        return self.equal / self.expected if self.expected else 1.0


def examples(seed: int = 0, per_kind: int = 300) -> list[Example]:
    """At least per_kind texts of each kind, and a third as many with several kinds in one text.

    Raises:
        ImportError: faker is not installed.
    """
    rng = Random(f"personal data/{seed}")
    values = _Values(rng, seed)
    out = []
    for _kind, sentences in SENTENCES.items():
        for number in range(per_kind):
            out.append(_fill(sentences[number % len(sentences)], values))
    out += [_fill(MIXED[number % len(MIXED)], values) for number in range(per_kind // 3)]
    rng.shuffle(out)
    return out


def look_alikes(seed: int = 0, count: int = 1000) -> list[str]:
    """Texts without personal data that look as if they had some."""
    rng = Random(f"look-alikes/{seed}")
    return [_fill_look_alike(LOOK_ALIKES[number % len(LOOK_ALIKES)], rng) for number in range(count)]


def score(anonymiser: Anonymiser, texts: Iterable[Example]) -> dict[str, Score]:
    """Spans found beside those expected, by kind. A span counts only if kind, start and stop are equal: no tolerance."""
    counts: dict[str, list[int]] = {}
    for example in texts:
        expected = set(example.spans)
        found = {(span.kind, span.start, span.stop) for span in anonymiser.find(example.text)}
        for at, spans in enumerate((expected, found, expected & found)):
            for kind, _, _ in spans:
                counts.setdefault(kind, [0, 0, 0])[at] += 1
    return {kind: Score(*counts[kind]) for kind in sorted(counts)}


_FIELD = re.compile(r"\{(\w+)\}")


def _fill(sentence: str, values: _Values) -> Example:
    """Put values in the fields; a field KIND_format names a format of the kind, words in <> are drawn and no data."""
    text, spans, last = "", [], 0
    for match in _FIELD.finditer(sentence):
        text += sentence[last : match.start()]
        field = match[1]
        value = values.draw(field)
        kind = values.kind(field)
        if kind:
            spans.append((kind, len(text), len(text) + len(value)))
        text += value
        last = match.end()
    return Example(text + sentence[last:], tuple(spans))


class _Values:
    """Draws a value for a field of a sentence."""

    def __init__(self, rng: Random, seed: int) -> None:
        from faker import Faker

        self._rng = rng
        self._faker = Faker("pl_PL")
        self._faker.seed_instance(seed)
        self._formats: dict[str, list[Callable[[], str]]] = {
            "email": [self._faker.email, self._faker.free_email, self._faker.company_email, self._written_email],
            "url": [self._faker.url, self._faker.uri, self._written_url],
            "phone": [self._faker.phone_number, self._phone],
            "phone_bare": [self._phone_bare],
            "phone_abroad": [self._phone_abroad],
            "address": [lambda: self._faker.address(), self._faker.street_address, self._address],
            "address_locative": [self._address_locative],
            "address_code": [self._address_code],
            "address_village": [self._address_village],
            "pesel": [self._faker.pesel],
            "nip": [lambda: self._nip(self._faker.nip())],
            "nip_plain": [self._faker.nip, lambda: self._nip(self._faker.company_vat())],
            "regon": [self._faker.regon, self._faker.local_regon, lambda: _groups(self._faker.regon(), (3, 3, 3), " ")],
            "iban": [self._faker.iban, self._iban],
            "identity_card": [self._faker.identity_card_number, self._identity_card],
            "passport": [self._passport],
            "ipv4": [self._ipv4],
            "ipv6": [self._ipv6],
            "payment_card": [self._card],
            "payment_card_plain": [lambda: self._card().replace(" ", "").replace("-", "")],
            "name": [self._faker.name],
            "city": [self._faker.city],
        }

    def kind(self, field: str) -> str | None:
        """The kind that a field is expected to be found as; None for words around."""
        if field in SENTENCES:
            return field
        base = field.rpartition("_")[0]
        return base if base in SENTENCES else None

    def draw(self, field: str) -> str:
        """A value in one of the field's formats."""
        return str(self._rng.choice(self._formats[field])())

    def _digits(self, count: int) -> str:
        return "".join(self._rng.choices("0123456789", k=count))

    def _written_email(self) -> str:
        first, last = self._faker.first_name().split()[0].lower(), self._faker.last_name().lower()
        plain = str.maketrans("ąćęłńóśźż", "acelnoszz")
        name = self._rng.choice(
            [f"{first[0]}.{last}", f"{first}_{last}", f"{last}+praca", f"{first}-{last}{self._rng.randint(1, 99)}"]
        )
        host = self._rng.choice(
            ["uw.edu.pl", "poczta.onet.pl", "wp.pl", "um.krakow.pl", "moja-firma.com.pl", "sklep.shop"]
        )
        style = self._rng.randrange(8)
        if style == 0:
            return f"{name.translate(plain).replace('+praca', '')} (at) {host}"
        if style == 1:
            return f"{name.translate(plain)}@{host}".upper()
        return f"{name.translate(plain)}@{host}"

    def _written_url(self) -> str:
        host = self._rng.choice(
            ["www.gov.pl", "bip.um.warszawa.pl", "sklep.allegro.pl", "pl.wikipedia.org", "www.zus.pl:8443"]
        )
        path = self._rng.choice(
            ["/wiki/Łódź_(miasto)", "/a/b.html?id=12&x=%C5%82", "/#sekcja-2", "/~jan/", "/oferta,123.html", ""]
        )
        scheme = self._rng.choice(["https://", "http://", ""]) if host.startswith("www.") else "https://"
        return scheme + host + path

    def _phone(self) -> str:
        rng = self._rng
        mobile = rng.choice(["50", "51", "53", "57", "60", "66", "69", "72", "73", "78", "79", "88"]) + self._digits(7)
        fixed = (
            rng.choice(["12", "22", "32", "42", "58", "61", "71", "81", "85", "91"])
            + rng.choice("234678")
            + self._digits(6)
        )
        return rng.choice(
            [
                _groups(mobile, (3, 3, 3), "-"),
                _groups(mobile, (3, 3, 3), "\u00a0"),
                "+48" + mobile,
                "+48 " + mobile,
                "0048 " + _groups(mobile, (3, 3, 3), " "),
                "+48-" + _groups(mobile, (3, 3, 3), "-"),
                "(+48) " + _groups(mobile, (3, 3, 3), " "),
                _groups(fixed, (2, 3, 2, 2), " "),
                _groups(fixed, (2, 3, 2, 2), "-"),
                f"({fixed[:2]}) " + _groups(fixed[2:], (3, 2, 2), " "),
                f"({fixed[:2]}) " + _groups(fixed[2:], (3, 2, 2), "-"),
                f"+48 ({fixed[:2]}) " + _groups(fixed[2:], (3, 2, 2), " "),
                f"(0{fixed[:2]}) " + _groups(fixed[2:], (3, 2, 2), " "),
                f"(0-{fixed[:2]}) " + _groups(fixed[2:], (3, 2, 2), "-"),
                f"{fixed[:2]}/{_groups(fixed[2:], (3, 2, 2), '-')}",
            ]
        )

    def _phone_bare(self) -> str:
        rng = self._rng
        mobile = rng.choice(["50", "51", "53", "57", "60", "66", "69", "72", "73", "78", "79", "88"]) + self._digits(7)
        fixed = (
            rng.choice(["12", "22", "32", "42", "58", "61", "71", "81", "85", "91"])
            + rng.choice("234678")
            + self._digits(6)
        )
        forms = [
            mobile,
            fixed,
            _groups(mobile, (3, 3, 3), "."),
            f"{fixed[:2]} {fixed[2:]}",
            f"({fixed[:2]}) {fixed[2:]}",
            "48" + mobile,
        ]
        return rng.choice([*forms, _groups(fixed, (2, 3, 4), " "), _groups(mobile, (3, 2, 2, 2), " ")])

    def _phone_abroad(self) -> str:
        forms = (
            "+49 30 ######",
            "+44 20 7### ####",
            "+420 ### ### ###",
            "+1 212-555-####",
            "+380 44 ### ## ##",
            "0049 171 #######",
            "+33 1 ## ## ## ##",
        )
        return "".join(self._digits(1) if sign == "#" else sign for sign in self._rng.choice(forms))

    def _address(self) -> str:
        street = self._rng.choice(
            [
                "ul. 11 Listopada",
                "ul. gen. Józefa Bema",
                "al. Jana Pawła II",
                "os. Tysiąclecia",
                "pl. Trzech Krzyży",
                "ul. Żwirki i Wigury",
                "ul. J. Słowackiego",
                "ul. św. Jana",
                "Al. Jerozolimskie",
                "ul. Bitwy pod Grunwaldem",
                "UL. DŁUGA",
                "ul. Ks. Piotra Skargi",
                "ul. 3 Maja",
                "os. Bolesława Chrobrego",
                "ul. Skłodowskiej-Curie",
                "aleja Armii Krajowej",
                "plac Wolności",
                "ul. Na Skarpie",
                "ul. Króla Jana III Sobieskiego",
            ]
        )
        number = self._rng.choice(
            ["5", "12a", "7/9", "14 m. 3", "22 lok. 5", "3B/12", "128", "6/8 m. 15", "10 lok. 11"]
        )
        end = f"{self._digits(2)}-{self._digits(3)} {self._faker.city()}"
        return self._rng.choice([f"{street} {number}", f"{street} {number}, {end}", f"{street} {number}\n{end}"])

    def _address_locative(self) -> str:
        street = self._rng.choice(
            [
                "ulicy Długiej",
                "ul. Mickiewicza",
                "ulicy Adama Mickiewicza",
                "alei Niepodległości",
                "Alejach Jerozolimskich",
                "placu Wolności",
                "osiedlu Piastów",
                "ul. Krótkiej",
                "al. Solidarności",
                "os. Wichrowe Wzgórze",
                "ulicy Marii Konopnickiej",
                "pl. Zamkowym",
                "ulicy 1 Maja",
                "bulwarze Czerwieńskim",
            ]
        )
        return f"{street} {self._rng.choice(['5', '12/3', '7a', '44', '100 m. 12', 'nr 8', '15/17'])}"

    def _address_code(self) -> str:
        return f"{self._digits(2)}-{self._digits(3)} {self._faker.city()}"

    def _address_village(self) -> str:
        village = self._rng.choice(["Wola Mała", "Nowa Wieś", "Brzeziny", "Stare Babice", "Zalesie", "Kąty"])
        return f"{village} {self._rng.randint(1, 199)}{self._rng.choice(['', '', 'A'])}, {self._address_code()}"

    def _nip(self, number: str) -> str:
        return self._rng.choice(
            [_groups(number, (3, 3, 2, 2), "-"), _groups(number, (3, 2, 2, 3), "-"), "PL" + number, "PL " + number]
        )

    def _iban(self) -> str:
        number = self._faker.iban()
        country = self._rng.choice(["DE", "GB", "CZ", "FR", "NL"])
        account = {"GB": "WEST" + self._digits(14), "NL": "ABNA" + self._digits(10)}.get(country) or self._digits(
            int(identifiers.IBAN_LENGTHS[country]) - 4
        )
        foreign = country + identifiers.iban_check(country, account) + account
        fours = (2, *(4,) * 6)
        return self._rng.choice(
            [
                number[2:],
                _groups(number[2:], fours, " "),
                _groups(number, (4, *((4,) * 6)), " "),
                "PL " + _groups(number[2:], fours, " "),
                foreign,
                _groups(foreign, (4,) * 9, " "),
                _groups(number[2:], fours, "-"),
                _groups(number[2:], fours, "\u00a0"),
            ]
        )

    def _identity_card(self) -> str:
        return _groups(self._faker.identity_card_number(), (3, 6), " ")

    def _passport(self) -> str:
        letters, digits = "".join(self._rng.choices("ABCDEFGHIJKLMNPRSTUVWXYZ", k=2)), self._digits(6)
        number = letters + identifiers.passport_check(letters, digits) + digits
        return self._rng.choice([number, _groups(number, (2, 7), " ")])

    def _ipv4(self) -> str:
        # Faker's public=True leaves in the ranges for documentation.
        while not ipaddress.ip_address(address := self._faker.ipv4()).is_global:
            pass
        return str(address)

    def _ipv6(self) -> str:
        if self._rng.random() < 0.3:
            return f"2a02:a3{self._rng.randint(10, 99)}:{self._rng.randint(1, 9999):x}::{self._rng.randint(1, 9999):x}"
        while not ipaddress.ip_address(address := self._faker.ipv6()).is_global:
            pass
        return str(address)

    def _card(self) -> str:
        first = self._rng.choice("45") + self._digits(14)
        return _groups(first + identifiers.card_check(first), (4,) * 4, self._rng.choice(" -"))


def _groups(characters: str, sizes: tuple[int, ...], separator: str) -> str:
    """Characters in groups; sizes beyond their end are left out."""
    out, at = [], 0
    for size in sizes:
        if at < len(characters):
            out.append(characters[at : at + size])
            at += size
    return separator.join(out)


def _fill_look_alike(sentence: str, rng: Random) -> str:
    """Fields of look-alikes: {wrong_NAME} for a number that fails its test, {d4} four digits, {n4} a number up to 9999."""

    def value(match: re.Match[str]) -> str:
        field = match[1]
        if field[0] == "d":
            return "".join(rng.choices("0123456789", k=int(field[1:])))
        if field[0] == "n":
            return str(rng.randint(1, 10 ** int(field[1:]) - 1))
        return _wrong(field, rng)

    return _FIELD.sub(value, sentence)


def _wrong(field: str, rng: Random) -> str:
    """A number in the shape of an identifier that is none."""
    tests: dict[str, tuple[str, Callable[[str], Any]]] = {
        "wrong_pesel": ("99999999999", identifiers.is_pesel),
        "wrong_nip": ("9999999999", identifiers.is_nip),
        "wrong_regon": ("999999999", identifiers.is_regon),
        "wrong_card": ("AAA999999", identifiers.is_identity_card),
        "wrong_passport": ("AA9999999", identifiers.is_passport),
        "wrong_nrb": ("9" * 26, lambda number: identifiers.is_iban("PL" + number)),
        "wrong_payment": ("9" * 16, identifiers.is_card),
    }
    shape, test = tests[field]
    while True:
        # No zeros first: eleven digits from 00 are a telephone number with its 00.
        number = "".join(rng.choice("ABCDEFGHJKLMNPRSTUVWXYZ" if sign == "A" else "123456789") for sign in shape)
        if not test(number):
            return number
