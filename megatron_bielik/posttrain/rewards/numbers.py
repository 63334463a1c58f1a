r"""The number that a Polish text means: "1 234,5", "1.234,56", "−3", "3/4", "\frac{3}{4}", "25%", "12,50 zł", "2,5 tys.".

Values are exact fractions. A comma or a full stop that stands once is the decimal mark, so "1.234" is a little more than
one, as is "1,234": Polish writes groups of thousands with spaces. One that stands twice or more groups ("1.234.567"),
and where both stand the last one is the decimal mark ("1.234,56", "1,234.56").
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from typing import NamedTuple

_LONGEST = 80


class Number(NamedTuple):
    """A number that a text means.

    Args:
        value: The number as written, without what the unit does to it: 25 for "25%", 5/2 for "2,5 km".
        unit: "%" for a percentage, the unit's name in UNITS, or "" for none or one that is not known ("15 jabłek").
    """

    value: Fraction
    unit: str = ""


def _units() -> dict[str, tuple[str, str, Fraction]]:
    """Every spelling of a unit: its name, what it measures, and how many of the smallest unit of that it is."""
    table = """
    money: 1 gr grosz grosze groszy; 100 zł pln złoty złote złotych złotego
    length: 1 mm milimetr milimetry milimetrów; 10 cm centymetr centymetry centymetrów; 100 dm
    length: 1000 m metr metry metrów metra; 1000000 km kilometr kilometry kilometrów kilometra
    mass: 1 g gram gramy gramów; 10 dag deko; 1000 kg kilogram kilogramy kilogramów kilograma; 1000000 t tona tony ton
    volume: 1 ml mililitr mililitry mililitrów; 1000 l litr litry litrów litra
    time: 1 s sek sekunda sekundy sekund; 60 min minuta minuty minut; 3600 h godz godzina godziny godzin
    speed: 1 km/h; 18/5 m/s
    area: 1 mm²; 100 cm²; 1000000 m²; 10000000000 ha; 1000000000000 km²
    angle: 1 ° stopień stopnie stopni
    share: 1 %; 1 procent procenta procenty
    """
    units = {}
    for line in table.strip().splitlines():
        quantity, _, entries = line.strip().partition(": ")
        for entry in entries.split("; "):
            size, *spellings = entry.split()
            for spelling in spellings:
                units[spelling] = (spellings[0], quantity, Fraction(size))
    units["procent"] = units["procenta"] = units["procenty"] = units["%"]
    return units


UNITS = _units()
_MULTIPLES = {
    **dict.fromkeys(("tys", "tysiąc", "tysiące", "tysięcy", "tysiąca"), 10**3),
    **dict.fromkeys(("mln", "milion", "miliony", "milionów", "miliona"), 10**6),
    **dict.fromkeys(("mld", "miliard", "miliardy", "miliardów", "miliarda"), 10**9),
}
# Words after a number that are more than a unit: with them the text is not one number.
_NO_UNITS = frozenset(
    re.findall(
        r"\w+",
        "i oraz lub albo czy a ale nie plus minus razy przez do od na z w pi e sqrt sin cos tan tg ctg log ln exp max "
        "or and not is to jest x y n k p q reszty reszta",
    )
)

_SPACES = re.compile(r"\\[,;:! ]|\\q?quad\b|~|\s+")
_WRAPPED = re.compile(r"\\(?:text|mathrm|mathbf|textbf|mathit|textit|operatorname)\s*\{([^{}]*)\}")
_NAMED = re.compile(r"\A[A-Za-z](?:_\{?\w\}?)? ?= ?")
_DIGITS = r"[0-9]{1,3}(?: [0-9]{3})+(?:[.,][0-9]+)?|[0-9]+(?:[.,][0-9]+)*|[.,][0-9]+"
_FRACTION = (
    rf"\\[dtc]?frac ?(?:\{{ ?(?P<fn>-? ?(?:{_DIGITS})) ?\}} ?\{{ ?(?P<fd>{_DIGITS}) ?\}}|(?P<sn>[0-9]) ?(?P<sd>[0-9]))"
)
_NUMBER = re.compile(
    rf"(?P<sign>[-+] ?)?(?:(?P<whole>[0-9]+) ?(?P<mixed>{_FRACTION})"
    rf"|(?P<swhole>[0-9]+) (?P<mn>[0-9]+) ?/ ?(?P<md>[0-9]+)"
    rf"|{_FRACTION.replace('<f', '<g').replace('<s', '<t')}"
    rf"|(?P<over>{_DIGITS}) ?/ ?(?P<under>{_DIGITS})"
    rf"|(?P<plain>{_DIGITS}))(?: ?(?:·|×|\*|\\cdot|\\times) ?10 ?\^ ?\{{? ?(?P<power>-?[0-9]{{1,2}}) ?\}}?)?"
)
_GROUPED = {mark: re.compile(rf"[0-9]{{1,3}}(?:{re.escape(mark)}[0-9]{{3}})+") for mark in ".,"}


def parse_number(text: str) -> Number | None:
    """The one number that a text means, None where it means none or several.

    Spaces of every width, LaTeX's too, minus signs of every kind, `$` around, `\\text{}` and a leading "x =" are
    understood, as is a unit of up to three words behind it; a unit that is not in UNITS is dropped. Texts of more than 80
    characters mean no number.
    """
    if len(text) > 4 * _LONGEST:
        return None
    plain = _plain(text)
    if len(plain) > _LONGEST:
        return None
    match = _NUMBER.match(plain)
    if match is None:
        return None
    rest = plain[match.end() :]
    value = _value(match)
    unit = _unit(rest)
    if value is None or unit is None:
        return None
    name, multiple = unit
    return Number(value * multiple, name)


def same_number(one: Number, other: Number, tolerance: float = 0.0) -> bool:
    """Whether two numbers are the same answer.

    Two units of one quantity are converted (1,5 km = 1500 m) and others differ; a missing unit is taken for the other's.
    A percentage equals the same number without the sign, and its worth: 20% = 20 and 20% = 0,2.

    Args:
        one: The wanted one.
        other: What was answered.
        tolerance: Allowed difference, relative to the wanted value.
    """
    pairs = [(one.value, other.value)]
    if one.unit and other.unit:
        _, quantity, size = UNITS[one.unit]
        _, other_quantity, other_size = UNITS[other.unit]
        if quantity != other_quantity:
            return False
        pairs = [(one.value * size, other.value * other_size)]
    elif one.unit == "%":
        pairs.append((one.value / 100, other.value))
    elif other.unit == "%":
        pairs.append((one.value, other.value / 100))
    allowed = Fraction(tolerance)
    return any(abs(wanted - got) <= allowed * abs(wanted) for wanted, got in pairs)


def _plain(text: str) -> str:
    """One spelling for all kinds of spaces, signs and marks."""
    text = "".join(_character(character) for character in text)
    text = (
        text.replace("{,}", ",")
        .replace("\\%", "%")
        .replace("\\$", "$")
        .replace("^\\circ", "°")
        .replace("^{\\circ}", "°")
    )
    text = text.replace("^2", "²").replace("^{2}", "²").replace("\\displaystyle", "").replace("\\left", "")
    text = _WRAPPED.sub(r" \1 ", text)
    text = _SPACES.sub(" ", text).strip().strip("$").strip()
    return _NAMED.sub("", text).rstrip(" ")


def _character(character: str) -> str:
    if character in "−–‒—﹣－":
        return "-"
    if unicodedata.category(character) == "Zs":
        return " "
    if unicodedata.category(character) == "No" and "<fraction>" in unicodedata.decomposition(character):
        return " " + unicodedata.normalize("NFKC", character).replace("⁄", "/")  # 1½ is one and a half, not 11/2
    return "/" if character == "⁄" else character


def _value(match: re.Match[str]) -> Fraction | None:
    group = match.groupdict()
    parts: tuple[Fraction | None, ...]
    if group["mixed"] is not None:
        parts = _mixed(group["whole"], group["fn"] or group["sn"], group["fd"] or group["sd"])
    elif group["swhole"] is not None:
        parts = _mixed(group["swhole"], group["mn"], group["md"])
    elif group["over"] is not None:
        parts = (_decimal(group["over"]), _decimal(group["under"]))
    elif group["plain"] is not None:
        parts = (_decimal(group["plain"]), Fraction(1))
    else:
        parts = (_decimal(group["gn"] or group["tn"]), _decimal(group["gd"] or group["td"]))
    over, under = parts
    if over is None or not under:
        return None
    value = over / under * Fraction(10) ** int(group["power"] or 0)
    return -value if (group["sign"] or "").startswith("-") else value


def _mixed(whole: str, over: str, under: str) -> tuple[Fraction | None, Fraction | None]:
    """A whole number and a proper fraction; "1 234/2" is no such thing, but 1234 over 2."""
    top, bottom = _decimal(over), _decimal(under)
    if top is None or bottom is None or top < 0:
        return None, None
    if top >= bottom or over.startswith("0"):
        grouped = len(over) == 3 and len(whole) <= 3
        return (_decimal(whole + over), bottom) if grouped else (None, None)
    return Fraction(whole) * bottom + top, bottom


def _decimal(text: str) -> Fraction | None:
    sign = -1 if text.startswith("-") else 1
    text = text.removeprefix("-").replace(" ", "")
    marks = [character for character in text if character in ".,"]
    if len(set(marks)) == 2:
        whole, _, rest = text.rpartition(marks[-1])
        if marks.count(marks[-1]) > 1 or not _GROUPED[marks[0]].fullmatch(whole):
            return None
        text = whole.replace(marks[0], "") + "." + rest
    elif len(marks) > 1:
        if not _GROUPED[marks[0]].fullmatch(text):
            return None
        text = text.replace(marks[0], "")
    return sign * Fraction(text.replace(",", ".") if text[0] not in ".," else "0." + text[1:])


def _unit(rest: str) -> tuple[str, int] | None:
    """The unit's name and what it multiplies the number by, None for a rest that is no unit."""
    words = rest.strip().rstrip(".").lower().replace(" / ", "/").split()
    multiple = 1
    if words and words[0].rstrip(".") in _MULTIPLES:
        multiple = _MULTIPLES[words.pop(0).rstrip(".")]
    if not words:
        return "", multiple
    first = words[0].rstrip(".")
    if first in UNITS:
        # "zł za kilogram" and the like say more of the same unit.
        known = UNITS[first][0]
        return (known, multiple) if all(_is_word(word) for word in words[1:3]) and len(words) <= 3 else None
    # Without a space it is part of a term: 3x.
    if not rest.startswith(" ") or len(words) > 3 or not all(_is_word(word) for word in words) or len(first) < 2:
        return None
    return "", multiple


def _is_word(word: str) -> bool:
    word = word.strip(".,/()")
    return word.isalpha() and word not in _NO_UNITS
