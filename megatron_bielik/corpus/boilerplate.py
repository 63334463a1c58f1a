"""Lines that belong to a web page and not to its text: notices, buttons, navigation, counters; a table for each language.

Only whole lines of at most MAX_LENGTH characters are taken, so a sentence that mentions cookies in a paragraph stays.
"""

from __future__ import annotations

import re
from collections import Counter

MAX_LENGTH = 120

# Kind to patterns, each for a whole line without its outer spaces, in any case. A pattern may end in MORE.
_MORE = r"[\s.…»›>→:|!-]*"
LANGUAGES: dict[str, dict[str, tuple[str, ...]]] = {
    "pl": {
        "cookies": (
            r"(?:ta|nasza|niniejsza) (?:strona|witryna) (?:internetowa )?(?:używa|korzysta z|"
            r"wykorzystuje) (?:plik(?:i|ów) )?(?:cookies?|ciastecz\w+).*",
            r"(?:ten|nasz) (?:serwis|portal) (?:internetowy )?(?:używa|korzysta z|wykorzystuje) (?:plik(?:i|"
            r"ów) )?(?:cookies?|ciastecz\w+).*",
            r"(?:używamy|korzystamy z|wykorzystujemy|stosujemy) (?:plik(?:i|ów) )?(?:cookies?|ciastecz\w+).*",
            r"(?:strona|serwis|witryna) (?:używa|korzysta z|wykorzystuje) (?:plik(?:i|ów) )?(?:cookies?|ciastecz\w+).*",
            r"(?:akceptuję|zgadzam się|akceptuj(?: wszystkie)?|zaakceptuj(?: wszystkie)?)(?: (?:pliki )?cookies?)?",
            r"(?:polityka (?:prywatności|cookies?)|ustawienia (?:prywatności|(?:plików )?cookies?)|regulamin serwisu)",
            r"polityka prywatności (?:i|oraz) (?:plików )?cookies?",
        ),
        "read_more": (
            r"(?:czytaj|zobacz|pokaż|dowiedz się|przeczytaj) (?:więcej|dalej|całość|cały artykuł|także|też|również)"
            + _MORE,
            r"(?:czytaj|przeczytaj|zobacz|sprawdź) (?:także|też|również)\s*:.*",
            r"(?:więcej na ten temat|więcej informacji|rozwiń|zwiń|pokaż wszystkie?)" + _MORE,
            r"więcej\s*[.…»›>→]+",
        ),
        "share": (
            r"(?:udostępnij|podziel się|tweetnij|lubię to!?|polub (?:nas|to)|poleć znajom\w+|skopiuj link|drukuj|"
            r"obserwuj nas)"
            r"(?: (?:na|przez|w) \w+(?: lub \w+)?)?" + _MORE,
            r"(?:wyślij|prześlij) (?:e-?mailem|znajomemu|na e-?mail)" + _MORE,
            r"(?:facebook|twitter|linkedin|pinterest|whatsapp|messenger|instagram|wykop)(?:[\s|,/•·-]+(?:facebook|"
            r"twitter|linkedin|pinterest|whatsapp|"
            r"messenger|instagram|wykop|e-?mail|x))+",
        ),
        "account": (
            r"(?:zaloguj się|zarejestruj się|załóż konto|wyloguj(?: się)?|moje konto|zapomniałe[śm] hasła\??|"
            r"nie pamiętasz hasła\?)"
            r"(?:[\s|/,•-]+(?:lub |albo )?(?:zaloguj się|zarejestruj się|załóż konto|moje konto))*" + _MORE,
            r"(?:zaloguj się|zarejestruj się),? (?:aby|żeby|by) .*",
            r"nie masz (?:jeszcze )?konta\?.*",
            r"(?:zapisz się (?:do|na) (?:naszego |nasz )?newslettera?|newsletter)" + _MORE,
        ),
        "copyright": (
            r"(?:©|\(c\)|copyright\b[\s:]*(?:©|\(c\)|by\b|[0-9]{4})).*",
            r"wszelkie prawa zastrzeżone.*",
        ),
        "navigation": (
            r"(?:przejdź do (?:treści|menu|strony głównej|wyszukiwarki)|do góry|powrót(?: do (?:listy|"
            r"strony głównej|góry))?|wróć(?: na górę)?|"
            r"strona główna|mapa strony|poprzedni(?:a|e)?(?: (?:artykuł|wpis|strona|zdjęcie))|"
            r"następn[yae](?: (?:artykuł|wpis|strona|zdjęcie)))" + _MORE,
            r"(?:« ?|‹ ?|← ?)(?:poprzedni|następn|wstecz|powrót)\w*(?: \w+)?",
            r"(?:tagi|kategori[ae])\s*:\s*[^.!?]{1,80}",
            r"(?:reklama|artykuł sponsorowany|materiał partnera)",
        ),
        "counter": (
            r"(?:udostępnień|udostępnienia|komentarzy|komentarze|polubień|polubienia|wyświetleń|wyświetlenia|"
            r"odsłon|odsłony|głosów|ocen)\s*[:(]\s*[0-9][0-9 .,]*\)?",
            r"[0-9][0-9 .,]*(?:tys\. )?(?:udostępni\w+|komentarz[ey]?|polubie\w+|wyświetle\w+|odsłon\w*|"
            r"osób lubi to|reakcj\w+)",
            r"(?:brak komentarzy|dodaj komentarz|skomentuj|oceń(?: artykuł| wpis)?)" + _MORE,
        ),
    },
    "en": {
        "cookies": (
            r"(?:this (?:web)?site|we) uses? cookies.*",
            r"(?:accept(?: all)?(?: cookies)?|cookie (?:policy|settings)|privacy policy)",
        ),
        "read_more": (r"(?:read|see|show|learn) more" + _MORE, r"continue reading" + _MORE),
        "share": (r"share(?: (?:this|on \w+))?(?: (?:article|post))?" + _MORE, r"(?:tweet|like this)" + _MORE),
        "account": (r"(?:log ?in|sign (?:in|up)|register|forgot (?:your )?password\??)" + _MORE,),
        "copyright": (r"all rights reserved.*",),
        "navigation": (r"(?:skip to (?:main )?content|back to top|home page|advertisement)" + _MORE,),
    },
}
_COMPILED = [
    (kind, re.compile("|".join(f"(?:{pattern})" for pattern in patterns), re.IGNORECASE))
    for table in LANGUAGES.values()
    for kind, patterns in table.items()
]
_BAR = re.compile(r"\s*[|»›•·→]\s*|\s+[>/]\s+")
_TABLE_RULE = re.compile(r"\s*\|?\s*:?-{2,}:?\s*(?:\|\s*:?-{2,}:?\s*)*\|?\s*")
_LETTER = re.compile(r"[^\W\d_]")
_REPEATS = 3


def boilerplate_kind(line: str) -> str | None:
    """The kind of a line that belongs to the page, None for text. Bars are judged without the lines around."""
    line = line.strip()
    if not line or len(line) > MAX_LENGTH:
        return None
    for kind, pattern in _COMPILED:
        if pattern.fullmatch(line):
            return kind
    return "navigation" if _is_bar(line) else None


def _is_bar(line: str) -> bool:
    """Four or more short names between separators, three with » or ›; no table row, list item or sentence."""
    if line[0] in "|•·-*>" or line[-1] in ".!?:;|":
        return False
    parts = _BAR.split(line)
    needed = 3 if "»" in line or "›" in line else 4
    return (
        len(parts) >= needed
        and "«" not in line
        and all(0 < len(part) <= 25 and len(part.split()) <= 3 and part[0].isalpha() for part in parts)
        and sum(part[0].isupper() for part in parts) * 2 > len(parts)
    )


def drop_boilerplate(lines: list[str], protected: list[bool]) -> tuple[list[str], list[bool], Counter[str]]:
    """Lines without boilerplate, what of them is protected, and how many went, by kind.

    Args:
        lines: Lines without line ends.
        protected: Lines of code, which stay.
    """
    dropped: Counter[str] = Counter()
    often = _often(lines)
    seen: set[str] = set()
    kept: list[str] = []
    kept_protected: list[bool] = []
    for at, line in enumerate(lines):
        kind = None
        if not protected[at]:
            stripped = line.strip()
            kind = boilerplate_kind(line)
            if kind == "navigation" and "|" in line and _in_table(lines, at):
                kind = None
            if kind is None and stripped in often and not stripped.startswith("|"):
                kind = "repeated" if stripped in seen else None
                seen.add(stripped)
        if kind:
            dropped[kind] += 1
        else:
            kept.append(line)
            kept_protected.append(protected[at])
    return kept, kept_protected, dropped


def _often(lines: list[str]) -> set[str]:
    """Lines that stand in a text more than _REPEATS times, with letters and long enough to say something."""
    if len(lines) <= _REPEATS or len(lines) - len(set(lines)) - lines.count("") + 1 < 1:
        return set()
    counts = Counter(line.strip() for line in lines)
    return {
        line
        for line, count in counts.items()
        if count > _REPEATS and 8 <= len(line) <= MAX_LENGTH and _LETTER.search(line)
    }


def _in_table(lines: list[str], at: int) -> bool:
    """A neighbour has as many bars: rows of a table, not of a menu."""
    bars = lines[at].count("|")
    return any(
        0 <= other < len(lines)
        and (lines[other].count("|") == bars or ("|" in lines[other] and _TABLE_RULE.fullmatch(lines[other])))
        for other in (at - 1, at + 1)
    )
