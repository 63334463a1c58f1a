"""Personal data in a text to placeholders or made-up values, with the spans and the counts of what was found.

Most text has few numbers, so the work is done in windows: one pass finds runs of digits, stretches around them are merged,
and the patterns of a kind look at a window only if it has as many digits as the kind needs. Kinds without digits are looked
for only if the text has an @, a :// or a www. Names of persons are not looked for.

Where spans of two kinds overlap, the kind that stands first in KINDS wins.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

from megatron_bielik.corpus import personal_data_patterns as patterns
from megatron_bielik.corpus.phones_and_addresses import find_addresses, find_phones
from megatron_bielik.corpus.substitutes import Substitutes

Mode = Literal["placeholder", "substitute"]

# In the order in which they win over each other.
KINDS = (
    "url",
    "email",
    "iban",
    "payment_card",
    "pesel",
    "nip",
    "regon",
    "identity_card",
    "passport",
    "ipv6",
    "ipv4",
    "phone",
    "address",
)
# Digits that a window must have, and what finds the kind there.
_NUMBERS: dict[str, tuple[int, patterns.Finder]] = {
    "iban": (10, patterns.find_iban),
    "payment_card": (13, patterns.find_cards),
    "pesel": (11, patterns.find_pesel),
    "nip": (10, patterns.find_nip),
    "regon": (9, patterns.find_regon),
    "identity_card": (6, patterns.find_identity_cards),
    "passport": (7, patterns.find_passports),
    "ipv4": (4, patterns.find_ipv4),
    "phone": (7, find_phones),
    "address": (1, find_addresses),
}
_DIGITS = re.compile("[0-9]+")
_COLONS = re.compile(":[0-9A-Fa-f]{0,4}:")
_SPACES = re.compile(r"\s")
_REACH_BEFORE, _REACH_AFTER = 100, 60


@dataclass(frozen=True)
class Span:
    """Personal data at [start, stop) of a text, in characters."""

    kind: str
    start: int
    stop: int


@dataclass(frozen=True)
class Anonymised:
    """A text without personal data.

    Attributes:
        text: The new text.
        found: How many of each kind; kinds not found are not there.
        spans: Where they stood in the old text, in its order.
    """

    text: str
    found: dict[str, int]
    spans: tuple[Span, ...]


class Anonymiser:
    """Finds personal data and puts something else in its place.

    Args:
        mode: "placeholder" writes <EMAIL>, <PESEL> and so on; "substitute" writes made-up values of the same format, the
            same for the same value in every text and process with this seed.
        types: Kinds to look for; all of KINDS if not given.
        seed: Chooses the substitutes.

    Raises:
        ValueError: An unknown mode or kind.
    """

    def __init__(self, mode: Mode = "placeholder", types: Collection[str] | None = None, seed: int = 0) -> None:
        if mode not in ("placeholder", "substitute"):
            raise ValueError(f"--mode is {mode}, needs placeholder or substitute")
        unknown = sorted(set(types or ()) - set(KINDS))
        if unknown:
            raise ValueError(f"--types has {', '.join(unknown)}, needs some of {', '.join(KINDS)}")
        self._kinds = tuple(kind for kind in KINDS if types is None or kind in types)
        self._numbers = [(kind, *_NUMBERS[kind]) for kind in self._kinds if kind in _NUMBERS]
        self._substitutes = Substitutes(seed) if mode == "substitute" else None
        self._rank = {kind: rank for rank, kind in enumerate(self._kinds)}

    def anonymise(self, text: str) -> Anonymised:
        """Replace all personal data of a text."""
        spans = self.find(text)
        if not spans:
            return Anonymised(text, {}, ())
        out, found, last = [], dict[str, int](), 0
        for span in spans:
            out += [text[last : span.start], self._replacement(span.kind, text[span.start : span.stop])]
            found[span.kind] = found.get(span.kind, 0) + 1
            last = span.stop
        return Anonymised("".join([*out, text[last:]]), found, spans)

    def find(self, text: str) -> tuple[Span, ...]:
        """Personal data of a text in its order, no two spans overlapping."""
        candidates = sorted(set(self._candidates(text)), key=lambda c: (self._rank[c[0]], c[1], -c[2]))
        taken = bytearray(len(text) if candidates else 0)
        chosen = []
        for kind, start, stop in candidates:
            if not any(taken[start:stop]):
                taken[start:stop] = b"\1" * (stop - start)
                chosen.append(Span(kind, start, stop))
        return tuple(sorted(chosen, key=lambda span: span.start))

    def _replacement(self, kind: str, value: str) -> str:
        return self._substitutes.make(kind, value) if self._substitutes else f"<{kind.upper()}>"

    def _candidates(self, text: str) -> Iterator[tuple[str, int, int]]:
        everywhere = len(text)
        if "url" in self._rank and ("/" in text or "www." in text or "WWW." in text):
            for start, stop in patterns.find_urls(text, 0, everywhere):
                yield "url", start, stop
        if "email" in self._rank and ("@" in text or "(" in text or "[" in text):
            for start, stop in patterns.find_emails(text, 0, everywhere):
                yield "email", start, stop
        if "ipv6" in self._rank and ":" in text and _COLONS.search(text):
            for start, stop in patterns.find_ipv6(text, 0, everywhere):
                yield "ipv6", start, stop
        for begin, end, digits in _windows(text):
            for kind, needed, finder in self._numbers:
                if digits >= needed:
                    for start, stop in finder(text, begin, end):
                        yield kind, start, stop


def _windows(text: str) -> Iterator[tuple[int, int, int]]:
    """Stretches around digits, merged where they meet, each with the number of its digits."""
    begin = end = digits = 0
    for match in _DIGITS.finditer(text):
        start, stop = match.span()
        if start - _REACH_BEFORE > end:
            if digits:
                yield begin, _to_space(text, end), digits
            begin, digits = _from_space(text, start - _REACH_BEFORE), 0
        end = stop + _REACH_AFTER
        digits += stop - start
    if digits:
        yield begin, _to_space(text, end), digits


def _to_space(text: str, at: int) -> int:
    found = _SPACES.search(text, at)
    return found.start() if found else len(text)


def _from_space(text: str, at: int) -> int:
    while at > 0 and not text[at - 1].isspace():
        at -= 1
    return at
