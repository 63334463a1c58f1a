"""Telephone numbers and postal addresses in Polish text: the two kinds that no check digit confirms.

A number with +48 or 00 is a telephone number. A number in a shape of national numbers (501 234 567, 22 123 45 67) must have
a prefix that is in use and no quantity around it ("501 234 567 zł"); any nine digits must follow a word such as "tel.".
An address is a street word (ul., al., pl., os., also written out and inflected), a name and a house number, with the postal
code and town after it if they are there; or a village with number, code and town; or a code and town alone.
Source of the prefixes: the national numbering plan (UKE).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from megatron_bielik.corpus.personal_data_patterns import Span, labels_before

MOBILE = frozenset(["45", "50", "51", "53", "57", "60", "66", "69", "72", "73", "78", "79", "88"])
AREAS = frozenset(
    [
        "12",
        "13",
        "14",
        "15",
        "16",
        "17",
        "18",
        "22",
        "23",
        "24",
        "25",
        "29",
        "32",
        "33",
        "34",
        "41",
        "42",
        "43",
        "44",
        "46",
        "48",
        "52",
        "54",
        "55",
        "56",
        "58",
        "59",
        "61",
        "62",
        "63",
        "65",
        "67",
        "68",
        "71",
        "74",
        "75",
        "76",
        "77",
        "81",
        "82",
        "83",
        "84",
        "85",
        "86",
        "87",
        "89",
        "91",
        "94",
        "95",
    ]
)
_SERVICES = frozenset(["800", "801", "804"])

_S = r"[ \u00a0\u2009\u202f\u2011.-]"
_ABROAD = re.compile(
    r"(?<![\w+])(?<![0-9][ .,/-])(?:\(\s?)?(?:\+|00)\s?"
    rf"(?:48\)?(?:{_S}|[()/]){{0,3}}(?:0(?=[ (/-]?[1-9]))?(?:[ \u00a0\u2011.()/-]{{0,2}}[0-9]){{9}}"
    rf"|(?!48)[1-9][0-9]{{0,2}}\)?(?:{_S}{{0,2}}\(?[0-9]{{1,8}}\)?){{1,6}})(?![\w])(?![-/][0-9])"
)
_NATIONAL = re.compile(
    r"(?<![\w+])(?<!\+ )(?:"
    rf"(?P<three>(?:48[ -])?[0-9]{{3}}(?P<a>{_S})[0-9]{{3}}(?P=a)[0-9]{{3}})"
    rf"|(?P<area>(?:48[ -])?(?:\(0?[-\u2011 ]?[0-9]{{2}}\)|0[-\u2011 ][0-9]{{2}}|[0-9]{{2}})(?:{_S}|"
    rf"/)?\s?[0-9]{{3}}(?P<b>{_S})[0-9]{{2}}(?P=b)[0-9]{{2}})"
    rf"|(?P<loose>\(0?[-\u2011 ]?[0-9]{{2}}\)\s?[0-9]{{7}}|0[-\u2011 ]?[0-9]{{2}}[-\u2011 ][0-9]{{7}}|"
    rf"[0-9]{{2}}{_S}[0-9]{{7}}"
    rf"|[0-9]{{2}}{_S}[0-9]{{3}}{_S}[0-9]{{4}}|[0-9]{{3}}{_S}[0-9]{{2}}{_S}[0-9]{{2}}{_S}[0-9]{{2}}|"
    rf"[0-9]{{3}}{_S}[0-9]{{6}}"
    r"|(?:48)?[0-9]{9})"
    rf"|(?P<local>[0-9]{{3}}(?P<c>{_S})[0-9]{{2}}(?P=c)[0-9]{{2}})"
    r")(?![\w])(?![-/.,][0-9])"
)
_BEFORE = re.compile(
    r"(?i)(?:\b(?:wyn[oi]|kwot|cen|liczb|około|ok\.|ponad|koszt|populacj|budżet|sum|wartoś|przychod|zysk|"
    r"dług|łączn|raz|prawie|"
    r"blisko|niemal|równ|przeszło|powyżej|poniżej|nakład|lat\b|latach|poz\.|nr|numer)\w*[^.!?\n]{0,14}|"
    r"[0-9][ .,/-]|[0-9]\s[-–]\s)\Z"
)
_AFTER = re.compile(
    r"(?i)\s?(?:zł|pln|eur|usd|chf|gbp|dol|funt|jen|fran|kor|grosz|proc|tys|mln|mld|km|kg|m2|m²|m³|ton|"
    r"osó?b|mieszk|sztuk|szt|egz|lat\b|"
    r"głos|bajt|bit|[kmgt]?b\b|wyświetl|odsłon|użytk|ludzi|obywat|widz|gatun|rekord|ha\b|litr|metr|kilo|"
    r"par\b|raz|\$|€|£|%|°|[,.]?[0-9]|"
    r"[ -][0-9])"
)


def find_phones(text: str, start: int, stop: int) -> Iterator[Span]:
    """Telephone numbers; quantities, years in a row and longer rows of digits stay."""
    for match in _ABROAD.finditer(text, start, stop):
        digits = re.sub(r"[^0-9]", "", match[0])
        if 9 <= len(digits.removeprefix("00")) <= 15:
            begin = match.start() + (match[0].startswith("(") and ")" not in match[0])
            yield begin, match.end()
    for match in _NATIONAL.finditer(text, start, stop):
        labels = labels_before(text, match.start(), 70)
        labelled = labels[:1] == ["phone"]
        if (labels and not labelled and labels[0] not in ("ip", "nip", "regon", "pesel")) or labels[:1] in (
            ["nip"],
            ["regon"],
        ):
            continue
        digits = re.sub(r"[^0-9]", "", match[0])
        known = _in_use(digits.removeprefix("0")) or (len(digits) == 11 and _in_use(digits.removeprefix("48")))
        if match["local"]:
            accepted = labelled and _near_label(text, match.start())
        elif match["loose"]:
            accepted = labelled and (known or _near_label(text, match.start()))
        elif match["three"] and match["a"] == ".":
            accepted = labelled
        else:
            accepted = labelled or known
        if not accepted or text[max(0, match.start() - 2) : match.start()].strip()[-1:] == "+":
            continue
        if not labelled:
            before = text[max(0, match.start() - 30) : match.start()]
            if _BEFORE.search(before) or _AFTER.match(text, match.end()):
                continue
        yield match.span()


def _in_use(digits: str) -> bool:
    return len(digits) == 9 and (digits[:2] in MOBILE or digits[:2] in AREAS or digits[:3] in _SERVICES)


def _near_label(text: str, start: int) -> bool:
    return bool(labels_before(text, start, 14)[:1] == ["phone"])


# ---- postal addresses

_UP = "[A-ZĄĆĘŁŃÓŚŹŻÄÖÜÉÁČŠŽŘ]"
_B = r"(?:[ \u00a0\t]*\n?[ \u00a0\t]*)"  # between parts: spaces and at most one line end
_SP = r"[ \u00a0]{1,2}"
_CODE = r"[0-9]{2}-[0-9]{3}"
_ADJECTIVE = (
    r"(?:\w*(?:[sc]|dz)k(?:i|a|ie|iej|im|iego|iemu|ą)\b|(?:Górnicz|Górn|Doln|Wielk|Mał|Duż|Now|Star|"
    r"Kościeln|Fabryczn|Biskup|Kąpielow|Leśn)(?:y|i|a|e|ie|ej|ym|im)\b|Zdr[óo]j\w*|Kalwari\w*|Kuźni\w*|"
    r"(?:Wlkp|Maz|Śl|Podl|Pom|Lub)\.)"
)
_TOWN = (
    rf"(?:(?:Now|Star|Wielk|Mał|Biał|Czarn|Zielon|Jeleni|Stalow|Such|Wysok|Dąbrow|Rud|Złot|Dobr|"
    rf"Król)\w*{_SP}(?:[oó]w|{_UP}\w+(?:-\w+)?)"
    rf"(?:{_SP}{_ADJECTIVE})?"
    rf"|{_UP}\w+[sc]k(?:a|i|ie|iej|ich){_SP}{_UP}\w+"
    rf"|{_UP}\w+(?:-{_UP}?\w+)*(?:{_SP}(?={_UP}){_ADJECTIVE}|{_SP}(?:nad|pod|koło|k\.){_SP}{_UP}\w+)?)"
)
_CODE_TOWN = rf"(?<![\w/.,-]){_CODE}{_SP}{_TOWN}"
_STREET_WORD = (
    r"(?:(?:[Uu][Ll]|[Aa][Ll]|[Pp][Ll]|[Oo][Ss])\.|[Uu]l(?=[ ])|(?:[Uu]lic|ULIC)(?:a|y|ę|ą|A|Y)|"
    r"[Aa]le(?:ja|i|ję|ją|je|jach|jami)|[Pp]lac(?:u|owi|em)?|"
    r"[Oo]siedl(?:e|a|u|em)|[Bb]ulwar(?:u|ze|em)?|[Ss]kwer(?:u|ze|em)?|[Rr]ond(?:o|a|u|em|zie)|[Ss]zos(?:a|y|ę|ą|ie))"
)
_TITLE = (
    r"(?i:gen|ks|św|dr|prof|płk|ppłk|mjr|kpt|por|bp|abp|kard|marsz|o|im|hr|hetm|adm|inż|red|rtm|ppor|plut|"
    r"kmdr|bł|al|pl|ul|os)\."
)
_NAME_PART = (
    rf"(?:{_TITLE}|{_UP}\.(?:[ ]?{_UP}\.)*|{_UP}\w*(?:[-'’]\w+)*|"
    rf"[0-9]{{1,4}}(?:-?\w{{2,6}})?\.?(?=[ \u00a0]{_UP})|[IVX]+|[0-9]+-lecia"
    rf"|(?:i|pod|nad|na|w|we|z|ze|de|von|van|do|od|u)(?=[ \u00a0](?:{_UP}|[0-9])))"
)
_HOUSE = r"[0-9]{1,4}(?:[A-Za-z](?!\w)|[ ][A-D](?=[,/\n]))?"
_FLAT = (
    rf"(?:[ ]?[/\\][ ]?{_HOUSE}(?:/[0-9]{{1,4}})?|-[0-9]{{1,3}}[A-Za-z]?(?!\w))?"
    r"(?:,?[ \u00a0](?:m|lok|miesz?k?)\.?[ \u00a0]?[0-9]{1,4}[A-Za-z]?|,?[ \u00a0](?:lokal|"
    r"mieszkani[ea])[ \u00a0](?:(?:nr|numer)[ ])?[0-9]{1,4}[A-Za-z]?)?"
)
_NOT_A_HOUSE = (
    r"(?!\w)(?![.,:][0-9])(?!%|[ \u00a0]?(?:%|zł))(?![ \u00a0](?:r\.|w\.|km|cm|m\b(?!\.)|metr|kilometr|"
    r"osó?b|lat|rok|stycz|lut(?:ego|y)|mar(?:ca|zec)|kwie(?:tnia|cień)|"
    r"maj[aą]?\b|czerw(?:ca|iec)|lip(?:ca|iec)|sierp|wrze(?:śnia|sień)|październik|listopad|grud|proc|tys|"
    r"mln|mld|godz|minut|razy|sztuk|szt|"
    r"drzew|budynk|kamienic|dom[óo]w|mieszkań|rodzin|sklep|ton|hektar|ha\b|samochod|pojazd|pieszych|"
    r"procent|złotych|euro|punkt[óo]w|lamp|wiek))"
)
_STREET = re.compile(
    rf"(?<![\w.@-])(?<!\b[Ee]t )(?<!\b[Ee]t\u00a0){_STREET_WORD}[ \u00a0]?(?:{_NAME_PART}(?:[ \u00a0]|(?<=\.))){{0,6}}"
    rf"(?:(?<=[Uu]l\. )[a-ząćęłńóśźż]{{3,}}[ \u00a0]|(?:{_NAME_PART})[ \u00a0],?)(?:,[ ])?(?:(?:nr|numer|"
    rf"numerem|numerze)[ ])?{_HOUSE}{_FLAT}{_NOT_A_HOUSE}"
    rf"(?:,?{_B}{_CODE}{_SP}{_TOWN})?"
)
_VILLAGE = re.compile(
    rf"(?<![\w-]){_UP}\w+(?:[ -]{_UP}\w+)?[ ]{_HOUSE}(?:[ ]?/[ ]?[0-9]{{1,4}}[A-Za-z]?)?,{_B}{_CODE}{_SP}{_TOWN}"
)
_TOWN_ALONE = re.compile(_CODE_TOWN)
# Not (?i)\b...: a search that begins with a set of characters is three times as fast.
_KEY = re.compile(r"[UuAaPpOoBbSsRr](?:l[. \u00a0]|L\.|s\.|S\.|lic|LIC|le[ij]|lac|siedl|ulwar|kwer|ond|zos)")
_CODE_KEY = re.compile(_CODE)


def find_addresses(text: str, start: int, stop: int) -> Iterator[Span]:
    """Street and house number with what follows of flat, code and town; villages with a code; a code and town alone."""
    if _KEY.search(text, start, stop):
        for match in _STREET.finditer(text, start, stop):
            yield match.span()
    if _CODE_KEY.search(text, start, stop):
        for pattern in (_VILLAGE, _TOWN_ALONE):
            for match in pattern.finditer(text, start, stop):
                yield match.span()
