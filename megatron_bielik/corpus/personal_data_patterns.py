"""What personal data looks like in Polish text: one function a kind, which gives the spans it finds in a window of a text.

A window is a stretch around numbers, an address of the network or an @, found by anonymise.py; patterns look at the text
before a window where they need the context. Numbers are taken by their check digits, and, where nothing but a check digit
tells them from other numbers (a bare NIP or REGON has one chance in eleven), by a label before them: "NIP 1234563218".
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from functools import lru_cache

from megatron_bielik.corpus import identifiers

Span = tuple[int, int]
Finder = Callable[[str, int, int], Iterator[Span]]

_GAP = r"[ \u00a0\u2009\u202f\u2011-]"  # between groups of digits: spaces and hyphens
_NOT_INSIDE = r"(?<![\w+])(?<![0-9][.,/-])(?<![0-9][-\u2011]\s)"
_ENDS = r"(?![\w])(?![-/][0-9])(?![.,][0-9])"

_LABELS = {
    "nip": r"NIP(?:u|em|owi)?|podatkowej|VAT|podatnik\w*",
    "regon": r"REGON\w*",
    "pesel": r"PESEL\w*",
    "phone": r"tel|telefon\w*|kom|kom[óo]rk\w*|fax\w*|faks\w*|(?:za|od)?dzwo[nń]\w*|oddzwoni\w*|kontakt\w*|infolini\w*|SMS\w*|"
    r"whatsapp\w*|mobile|phone|gsm",
    "identity": r"dow[oó]d\w*",
    "passport": r"paszport\w*",
    "card": r"kart\w*",
    "account": r"kont[oa]|rachun\w*|IBAN|NRB|bank\w*",
    "ip": r"IP|IPv[46]|adres\w*|serwer\w*|host\w*|DNS|ping\w*|bram\w*|sie[cć]\w*",
    "other": r"KRS\w*|ISBN\w*|ISSN\w*|EAN\w*|GTIN\w*|DOI|zam[oó]wieni\w*|faktur\w*|sygn\w*|przesyłk\w*|katalogow\w*|"
    r"seryjn\w*|wersj\w*|"
    r"version\w*|licencj\w*|rejestracyjn\w*|parti[iaę]|artykuł\w*|indeks\w*|umow\w*|BDO|LEI|CAS|paczk\w*|"
    r"spraw\w*|identyfikator\w*|"
    r"kod(?:u|em|zie)?|model\w*|bilet\w*|rezerwacji|transakcj\w*|dzia[łl]k\w*",
}
_LABEL = re.compile("|".join(f"(?P<{kind}>{words})" for kind, words in _LABELS.items()), re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]\w*")


@lru_cache(maxsize=1 << 16)
def _label_of(word: str) -> str | None:
    match = _LABEL.fullmatch(word)
    return match.lastgroup if match else None


def labels_before(text: str, start: int, reach: int = 60) -> list[str]:
    """Kinds of the label words in `reach` characters before a place, the nearest first."""
    kinds = [_label_of(word) for word in _WORD.findall(text, max(0, start - reach), start)]
    return [kind for kind in reversed(kinds) if kind]


def compact(text: str) -> str:
    """Letters and digits of a number, in capitals; "nr" between series and number does not count."""
    return re.sub(r"\b(?:nr|numer)\b|[^0-9A-Za-z]", "", text).upper()


# ---- addresses of the network

_TOP = r"(?:pl|com|org|net|eu|info|biz|de|uk|io|gov|edu)"
_URL = re.compile(r"[^\s<>\"„”“«»‘’`|\\^{}\u00ad]+")
# The sign in the middle of an address: from there back to the beginning, since a search for the beginning tries every word.
_URL_SIGN = re.compile(rf":(?=//)|\.(?={_TOP}/)|(?<=[Ww]{{3}})\.(?=\w)")
_TOP_PATH = re.compile(rf"\.{_TOP}/")
_SCHEME = re.compile(r"(?i)(?<![^\W_])(?:https?|ftps?)\Z")
_WWW = re.compile(r"(?i)(?<![\w.@-])www\Z")
_HOST = re.compile(r"(?<![\w@./-])[a-z0-9][a-z0-9.-]*\Z")
_CLOSERS = {")": "(", "]": "["}


def _trim_url(url: str) -> str:
    """Cut at the first bracket that closes nothing, and punctuation that belongs to the sentence."""
    depth = {"(": 0, "[": 0}
    for at, character in enumerate(url):
        if character in depth:
            depth[character] += 1
        elif opener := _CLOSERS.get(character):
            depth[opener] -= 1
            if depth[opener] < 0:
                url = url[:at]
                break
    return url.rstrip(".,;:!?'*_~…–—-([")


def find_urls(text: str, start: int, stop: int) -> Iterator[Span]:
    """Addresses with a scheme or www., and host names with a path; punctuation after them stays outside."""
    done = start
    for sign in _URL_SIGN.finditer(text, start, stop):
        at = sign.start()
        if at < done:
            continue
        if sign[0] == ":":
            begin = _SCHEME.search(text[max(done, at - 6) : at])
        else:
            begin = _WWW.search(text[max(done, at - 4) : at])
            if not begin and _TOP_PATH.match(text, at):
                begin = _HOST.search(text[max(done, at - 80) : at])
        if begin:
            first = at - len(begin[0])
            match = _URL.match(text, first)
            url = _trim_url(match[0]) if match else ""
            if re.search(r"(?://|\.)[^\W_]", url) and first + len(url) > at:
                done = first + len(url)
                yield first, done


_DOMAIN = re.compile(r"(?:[^\W_](?:[\w-]{0,62}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w-])")
_LOCAL_END = re.compile(r"[^\W_][\w.+%'&-]*\Z|[\w+]\Z")
_FILES = frozenset(
    [
        "png",
        "jpg",
        "jpeg",
        "gif",
        "svg",
        "webp",
        "css",
        "js",
        "pdf",
        "html",
        "htm",
        "php",
        "txt",
        "md",
        "py",
        "ico",
        "bmp",
    ]
)
_AT_SIGN = re.compile(r"[(\[{]\s?(?:[aA][tT]|[mM][aA][łŁlL][pP][aA]|@)\s?[)\]}]")
_AT_WORDS = re.compile(
    r"(?i)(?<![\w.+-])[a-z0-9][\w.+-]{0,63}\s?[(\[{]\s?(?:at|małpa|malpa|@)\s?[)\]}]\s?"
    r"[a-z0-9-]+(?:(?:\.|\s?[(\[{]\s?(?:dot|kropka)\s?[)\]}]\s?)[a-z0-9-]+)*(?:\.|\s?[(\[{]\s?(?:dot|"
    r"kropka)\s?[)\]}]\s?)[a-z]{2,12}\b"
)


def find_emails(text: str, start: int, stop: int) -> Iterator[Span]:
    """name@host.top, and the same with (at), [małpa] and (kropka) written out."""
    at = text.find("@", start, stop)
    while at >= 0:
        domain = _DOMAIN.match(text, at + 1)
        # From the @ backwards: a search for the name forwards would try every place of every word.
        first = at
        while first > 0 and at - first < 64 and (text[first - 1].isalnum() or text[first - 1] in "._+%'&-"):
            first -= 1
        name = _LOCAL_END.search(text[first:at])
        if domain and name and domain[0].rpartition(".")[2].lower() not in _FILES:
            # git@host:path names a repository, not a person.
            repository = name[0] == "git" and text[domain.end() : domain.end() + 1] == ":"
            if not repository:
                yield first + name.start(), domain.end()
        at = text.find("@", at + 1, stop)
    if _AT_SIGN.search(text, start, stop):
        for match in _AT_WORDS.finditer(text, start, stop):
            yield match.span()


_IPV4 = re.compile(r"(?<![\w.])(?<![0-9][-/,])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?!\w)(?!\.[0-9])(?!-[0-9])")
_VERSION = re.compile(
    r"(?i)(?:\bv|\bver|wersj\w*|version|wydani\w*|build|firmware|rozdział\w*|sekcj\w*|pkt|punkt\w*|art|"
    r"ust|par|§|tabel\w*|zał\w*)[.:]?\s*"
    r"(?:\w+\s+){0,2}\Z"
)


def find_ipv4(text: str, start: int, stop: int) -> Iterator[Span]:
    """Public addresses. Private, loopback and documentation addresses say nothing of a person and stay.

    Numbers after "wersja", "rozdział" and the like stay, and so do four numbers up to 20 without a word such as "IP" or
    "serwer" before them: sections and versions look like this.
    """
    for match in _IPV4.finditer(text, start, stop):
        octets = match[0].split(".")
        if any(int(octet) > 255 or octet != str(int(octet)) for octet in octets):
            continue
        if not ipaddress.IPv4Address(match[0]).is_global:
            continue
        labels = labels_before(text, match.start(), 30)
        if labels[:1] != ["ip"]:
            before = text[max(0, match.start() - 40) : match.start()]
            if labels[:1] == ["other"] or _VERSION.search(before) or all(int(octet) <= 20 for octet in octets):
                continue
        yield match.span()


_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:]|\.[0-9])")


def find_ipv6(text: str, start: int, stop: int) -> Iterator[Span]:
    """Public addresses; shortened ones (::) only if they begin with the 2 or 3 of global unicast addresses."""
    for match in _IPV6.finditer(text, start, stop):
        try:
            address = ipaddress.IPv6Address(match[0])
        except ValueError:
            continue
        if address.is_global and ("::" not in match[0] or re.match(r"[23][0-9A-Fa-f]{3}:", match[0])):
            yield match.span()


# ---- numbers of persons and firms

_PESEL = re.compile(rf"{_NOT_INSIDE}[0-9]{{11}}{_ENDS}")
_PESEL_GROUPS = re.compile(
    rf"{_NOT_INSIDE}(?:[0-9]{{6}}{_GAP}[0-9]{{5}}|[0-9]{{2}}(?:{_GAP}[0-9]{{2}}){{2}}{_GAP}[0-9]{{5}}){_ENDS}"
)


def find_pesel(text: str, start: int, stop: int) -> Iterator[Span]:
    """Eleven digits that can be a PESEL; in groups only after the word."""
    for match in _PESEL.finditer(text, start, stop):
        if identifiers.is_pesel(match[0]) and labels_before(text, match.start(), 30)[:1] not in (["other"], ["phone"]):
            yield match.span()
    for match in _PESEL_GROUPS.finditer(text, start, stop):
        if identifiers.is_pesel(compact(match[0])) and "pesel" in labels_before(text, match.start()):
            yield match.span()


_G = _GAP
_NIP = re.compile(
    rf"{_NOT_INSIDE}(?:PL{_G}?)?(?:[0-9]{{10}}|[0-9]{{3}}({_G})[0-9]{{3}}\1[0-9]{{2}}\1[0-9]{{2}}"
    rf"|[0-9]{{3}}({_G})[0-9]{{2}}\2[0-9]{{2}}\2[0-9]{{3}}){_ENDS}"
)
_FIRM_NUMBERS = {"nip", "regon", "phone", "pesel"}


def _labelled(labels: list[str], kind: str) -> bool:
    """The label stands before the number with none but labels of other such numbers between: NIP i REGON: 123..., 456..."""
    for label in labels:
        if label == kind:
            return True
        if label not in _FIRM_NUMBERS:
            return False
    return False


def find_nip(text: str, start: int, stop: int) -> Iterator[Span]:
    """Ten digits with hyphens in the places of a NIP or with PL before them; others only after the label."""
    for match in _NIP.finditer(text, start, stop):
        number = match[0]
        labels = labels_before(text, match.start())
        shown = number.startswith("PL") or "-" in number or "\u2011" in number
        if identifiers.is_nip(compact(number).removeprefix("PL")) and (
            _labelled(labels, "nip") or (shown and labels[:1] != ["other"])
        ):
            yield match.span()


_REGON = re.compile(
    rf"{_NOT_INSIDE}(?:[0-9]{{14}}|[0-9]{{9}}(?:{_G}[0-9]{{5}})?|[0-9]{{3}}({_G})[0-9]{{3}}\1[0-9]{{3}}"
    rf"(?:\1[0-9]{{5}}|\1[0-9]{{3}}\1[0-9]{{2}})?){_ENDS}"
)


def find_regon(text: str, start: int, stop: int) -> Iterator[Span]:
    """Nine or fourteen digits after the label."""
    for match in _REGON.finditer(text, start, stop):
        if identifiers.is_regon(compact(match[0])) and _labelled(labels_before(text, match.start()), "regon"):
            yield match.span()


_IBAN = re.compile(r"(?<![\w+-])(?:[A-Z]{2}|pl)\s?[0-9]{2}(?=[ \u00a0-]?[0-9A-Z]{2})")
_NRB = re.compile(rf"{_NOT_INSIDE}[0-9]{{2}}(?:{_GAP}?[0-9]{{4}}){{6}}{_ENDS}")
_IBAN_TAIL = re.compile(r"(?:[ \u00a0-]?[0-9A-Z]){1,30}")


def find_iban(text: str, start: int, stop: int) -> Iterator[Span]:
    """Account numbers: 26 digits of a Polish one, or a country of the table and as many characters as it has."""
    for match in _NRB.finditer(text, start, stop):
        if identifiers.is_iban("PL" + compact(match[0])):
            yield match.span()
    for match in _IBAN.finditer(text, start, stop):
        length = identifiers.IBAN_LENGTHS.get(match[0][:2].upper())
        tail = _IBAN_TAIL.match(text, match.end())
        if not length or not tail:
            continue
        left, end = int(length) - 4, match.end()
        while end < tail.end() and left:
            left -= text[end].isalnum()
            end += 1
        if left == 0 and not text[end : end + 1].isalnum() and identifiers.is_iban(compact(text[match.start() : end])):
            yield match.start(), end


_IDENTITY = re.compile(rf"(?<![\w-])[A-Za-z]{{3}}(?:{_G}|[ ,]{{1,2}}(?:nr|numer)[ ])?[0-9]{{6}}(?![\w])(?![-/.][0-9])")
_PASSPORT = re.compile(rf"(?<![\w-])[A-Za-z]{{2}}(?:{_G}|[ ,]{{1,2}}(?:nr|numer)[ ])?[0-9]{{7}}(?![\w])(?![-/.][0-9])")


def _document(
    text: str, start: int, stop: int, pattern: re.Pattern[str], kind: str, valid: Callable[[str], bool]
) -> Iterator[Span]:
    for match in pattern.finditer(text, start, stop):
        if not valid(compact(match[0])):
            continue
        labels = labels_before(text, match.start())
        if labels[:1] != ["other"] and (match[0][:2].isupper() or kind in labels):
            yield match.span()


def find_identity_cards(text: str, start: int, stop: int) -> Iterator[Span]:
    """Three letters, six digits; small letters only after "dowód"."""
    return _document(text, start, stop, _IDENTITY, "identity", identifiers.is_identity_card)


def find_passports(text: str, start: int, stop: int) -> Iterator[Span]:
    """Two letters, seven digits; small letters only after "paszport"."""
    return _document(text, start, stop, _PASSPORT, "passport", identifiers.is_passport)


_CARD = re.compile(rf"{_NOT_INSIDE}(?:[0-9]{{4}}({_G})[0-9]{{4}}\1[0-9]{{4}}\1[0-9]{{4}}|[0-9]{{13,19}}){_ENDS}")


def find_cards(text: str, start: int, stop: int) -> Iterator[Span]:
    """Payment cards in four groups of four; in one group only after "karta"."""
    for match in _CARD.finditer(text, start, stop):
        if identifiers.is_card(compact(match[0])):
            labels = labels_before(text, match.start())
            if labels[:1] == ["card"] or (len(match[0]) == 19 and not match[0].isdigit() and labels[:1] != ["other"]):
                yield match.span()
