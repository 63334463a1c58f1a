"""Text decoded with the wrong code page, put right: UTF-8 read as one byte a character, and Polish code pages read as others.

Lines are judged one by one, since pages are put together from parts. Two kinds of damage are undone:

- UTF-8 read as windows-1250, windows-1252, ISO 8859-1 or ISO 8859-2, up to four times over. Undefined bytes are read as C1
  controls, as browsers do (WHATWG Encoding). A sequence is decoded if it gives a letter or sign that Polish text has, or
  belongs to a long run of signs that decodes as a whole.
- Polish in windows-1250 or ISO 8859-2 read as one of the others: "bêdzie" for "będzie", "¶wiat" for "świat". Words are
  changed if the text has words that no language writes ("by³", "œwi¹t" in pieces), and only in lines that have none of
  the Polish letters that the wrong code page lacks.

Not recovered: bytes that were lost (U+FFFD), and "ą" read from ISO 8859-2 as windows-1250 in a lone word "s±" that stands
in a text without any other damage.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

_POLISH = "ąćęłńóśźżĄĆĘŁŃÓŚŹŻ"
# What may come out of a single sequence: letters of the languages around, and signs of typography.
_WELCOME = frozenset(
    _POLISH
    + "„”“’‘‚–—…•«»°§©®™€½¼¾²³µ·×÷£¥¢¿¡¬±´¶\u00a0\u00ad\ufeff\u200b\u200e"
    + "".join(map(chr, range(0xA0, 0x100)))
    + "čČďĎěĚňŇřŘšŠťŤůŮžŽľĽĺĹŕŔăĂőŐűŰşŞţŢđĐ†‡‰‹›˘˛ˇ˝¸¨¤¦ŸŒœƒˆ˜"
    + "".join(map(chr, range(0x80, 0xA0)))
)


def _bytes_of(codec: str) -> dict[str, int]:
    """Character to byte, 0x80 to 0xFF; bytes without a character stand for themselves."""
    table = {}
    for value in range(0x80, 0x100):
        try:
            table[bytes([value]).decode(codec)] = value
        except UnicodeDecodeError:
            table[chr(value)] = value
    return table


_CODECS = [_bytes_of(name) for name in ("cp1250", "cp1252", "iso8859_2", "iso8859_1")]


def _class(characters: str) -> str:
    return "[" + "".join(re.escape(character) for character in characters) + "]"


def _between(table: dict[str, int], first: int, last: int) -> str:
    return _class("".join(character for character, value in table.items() if first <= value <= last))


def _sequences(table: dict[str, int]) -> re.Pattern[str]:
    """A two-byte sequence of U+0080 to U+017F, a three-byte one of U+2000 to U+2FFF, or one of an emoji."""
    tail = _between(table, 0x80, 0xBF)
    return re.compile(
        f"{_between(table, 0xC2, 0xC5)}{tail}|{_between(table, 0xCB, 0xCB)}{_between(table, 0x86, 0x9D)}"
        f"|{_between(table, 0xE2, 0xE2)}{tail}{tail}|{_between(table, 0xEF, 0xEF)}{_between(table, 0xBB, 0xBF)}{tail}"
        f"|{_between(table, 0xF0, 0xF0)}{_between(table, 0x9F, 0x9F)}{tail}{tail}"
    )


_SEQUENCES = [_sequences(table) for table in _CODECS]
_RUNS = [re.compile(f"(?:{_between(table, 0x80, 0xFF)}){{6,}}") for table in _CODECS]
_FIRST_BYTES = (0xC2, 0xC3, 0xC4, 0xC5, 0xCB, 0xE2, 0xEF, 0xF0)
_LEADS = _class("".join(sorted({c for table in _CODECS for c, value in table.items() if value in _FIRST_BYTES})))
_TAILS = _class("".join(sorted({c for table in _CODECS for c, value in table.items() if 0x80 <= value <= 0xBF})))
_PAIR = re.compile(_LEADS + _TAILS)
_LONG_RUN = re.compile("[\x80-\uffff]{6}")


def is_suspect(text: str) -> bool:
    """Whether a text has anything that undo_utf8_as_bytes would look at: cheap, for text that has nothing."""
    return _PAIR.search(text) is not None or _LONG_RUN.search(text) is not None


def undo_utf8_as_bytes(line: str) -> tuple[str, int]:
    """A line with UTF-8 sequences decoded, and how many there were; the line itself if nothing is clearly better."""
    count = 0
    while is_suspect(line):
        # Each code page to its end: a line read wrongly twice shows only then which one it was.
        tried = [_undo_all(line, codec) for codec in range(len(_CODECS))]
        made, changed, _ = max(tried, key=lambda result: (result[1] > 0, result[2]))
        if not changed:
            break
        line, count = made, count + changed
    return line, count


def _undo_all(line: str, codec: int) -> tuple[str, int, tuple[int, int, int]]:
    """A line decoded from one code page until nothing changes, how many sequences, and how good the result is."""
    count = 0
    for _ in range(4):
        made, changed = _undo_once(line, codec)
        if not changed:
            break
        line, count = made, count + changed
    polish = sum(map(line.count, _POLISH))
    # The shortest has the most decoded; of equal ones, more letters of Polish and fewer capitals inside words win.
    chaos = sum(after.isupper() and before.isalpha() for before, after in pairwise(line))
    return line, count, (-len(line) - 3 * len(_PAIR.findall(line)), polish, -chaos)


def _undo_once(line: str, codec: int) -> tuple[str, int]:
    table, changed = _CODECS[codec], 0

    def whole(match: re.Match[str]) -> str:
        nonlocal changed
        decoded = _decode(match[0], table)
        if decoded is None or len(decoded) < 2 or not _one_script(decoded):
            return match[0]
        changed += len(decoded)
        return decoded

    def single(match: re.Match[str]) -> str:
        nonlocal changed
        decoded = _decode(match[0], table)
        if decoded is None or not (decoded in _WELCOME or len(match[0]) > 2) or not _believable(match, decoded):
            return match[0]
        changed += 1
        return decoded

    return _SEQUENCES[codec].sub(single, _RUNS[codec].sub(whole, line)), changed


def _decode(characters: str, table: dict[str, int]) -> str | None:
    try:
        return bytes(table[character] for character in characters).decode("utf-8")
    except UnicodeDecodeError:
        return None


def _one_script(decoded: str) -> bool:
    """Letters outside the Latin blocks throughout: Cyrillic, Greek, Hebrew, Arabic, Chinese, with marks between."""
    return all(character > "\u036f" and not "\u1e00" <= character <= "\u1eff" for character in decoded)


def _believable(match: re.Match[str], decoded: str) -> bool:
    """A letter and a sign of punctuation can meet in honest text ("Ä… ja"); such a pair must stand in a word."""
    text, start, stop = match.string, match.start(), match.end()
    if match[0][1] not in "…”’‘“„–—›‹»«":
        return True
    return text[start - 1 : start].isalpha() or text[stop : stop + 1].isalpha() or decoded not in _POLISH


# ---- Polish code pages read as others


@dataclass(frozen=True)
class _Misreading:
    """One Polish code page read as another: its odd signs, what they stand for, and letters that could not have survived."""

    table: dict[int, str]
    odd: str
    survivors: str
    quotes: bool
    reads_latin_2: bool
    words: re.Pattern[str]
    proof: re.Pattern[str]


def _char(value: int, codec: str) -> str:
    try:
        return bytes([value]).decode(codec)
    except UnicodeDecodeError:
        return chr(value)


def _misreading(written: str, read: str, proof: str) -> _Misreading:
    reading = {value: character for character, value in _bytes_of(read).items() if not 0x80 <= ord(character) < 0xA0}
    table = {}
    for value in range(0x80, 0x100):
        seen, meant = reading.get(value, chr(value)), _char(value, written)
        if seen != meant and (meant in _POLISH or 0x80 <= ord(seen) < 0xA0):
            table[ord(seen)] = meant
        if value < 0xA0 and written == "cp1250" and meant != chr(value):
            table[value] = meant
    odd = "".join(chr(seen) for seen, meant in table.items() if meant in _POLISH)
    impossible = "".join(letter for letter in _POLISH if letter in table.values())
    return _Misreading(
        table,
        odd,
        impossible,
        written == "cp1250",
        read in ("iso8859_2", "cp1250"),
        re.compile(rf"[A-Za-zÓó{re.escape(odd)}{re.escape(_POLISH)}]+"),
        re.compile(proof),
    )


_L = "[A-Za-zóÓ]"
_P = "[A-Za-zóÓęłćńżĘŁĆŃŻ]"
_CONSONANT = "[bcdfghjklłmnprstwzżćńBCDFGHJKLŁMNPRSTWZŻĆŃ]"
_MISREADINGS = (
    # Signs inside words that no language puts there: by³, s¹d, ¿e; the letters ê, æ, ñ alone prove nothing.
    _misreading(
        "cp1250",
        "cp1252",
        f"{_L}[³¹¿\x9c\x9f]{_L}|(?<![A-Za-z])[³\x9c\x9f][a-z]|³¹|(?<![A-Za-z])œ(?![eu])[a-z]{{2}}|[¹³œ\x9c]æ|[a-z]œ[cnlwtmpk]|(?<!\\S)¿e\\b",
    ),
    _misreading("iso8859_2", "cp1252", f"{_L}[³±¶¼¿]{_L}|(?<![A-Za-z])[³¶¦][a-z]|³±|¶æ|[a-z]{{2}}±(?![\\w±])"),
    _misreading(
        "cp1250",
        "iso8859_2",
        f"{_P}[\x9c\x9f]|(?<!\\w)[\x9c\x8c\x9f]{_P}|\x9cć|{_CONSONANT}š(?={_CONSONANT}|\\b)|iš\\b",
    ),
    _misreading("iso8859_2", "cp1250", f"{_P}[±¶]{_P}|(?<!\\w)[¶¦]{_P}|ł±|¶ć|{_P}{{2}}±(?![\\w±])"),
)
_CZECH = re.compile("[čřěůťďňýľČŘĚŮŤĎŇÝáéíÁÉÍ]")
_ODD_ANY = re.compile(_class("".join(sorted({c for m in _MISREADINGS for c in m.odd}))))
_UNITS = re.compile(r"(?i)(?:[kcdm]?m|ft|in|nm|mi)[³¹]\Z|(?:.*[^³¹])?[0-9]")
_FOREIGN = re.compile("[éèàçùûîïôâäöüåøíúáõãëòì]")


_C1 = re.compile("[\x80-\x84\x86-\x9f]")


def undo_code_page(text: str) -> tuple[str, int]:
    """A text with the signs of a wrongly read Polish code page replaced, and how many there were."""
    if not _ODD_ANY.search(text):
        return text, 0
    lines = text.split("\n")
    best = max(_MISREADINGS, key=lambda m: _evidence(m, lines))
    if _evidence(best, lines) < 1:
        return text, 0
    count = 0
    for at, line in enumerate(lines):
        if not _may_be(best, line):
            continue
        made = best.words.sub(lambda match: _mend(best, match), line)
        # Quotes and dashes of the code page, which stand between the words.
        made = _C1.sub(lambda match: best.table.get(ord(match[0]), match[0]) if best.quotes else match[0], made)
        if made != line:
            count += sum(old != new for old, new in zip(line, made, strict=True))
            lines[at] = made
    return "\n".join(lines), count


def _may_be(misreading: _Misreading, line: str) -> bool:
    """No Polish letter that the wrong code page lacks, and no accents of another language."""
    if any(letter in line for letter in misreading.survivors):
        return False
    if misreading.reads_latin_2:
        return not _CZECH.search(line)
    return not _FOREIGN.search(line) or misreading.proof.search(line) is not None


def _evidence(misreading: _Misreading, lines: list[str]) -> float:
    """How many places prove a misreading; a lone sign in a short word proves nothing: a±b, m³."""
    proofs, letters, long_word = 0, 0, False
    for line in lines:
        if not _may_be(misreading, line):
            continue
        signs = sum(line.count(sign) for sign in misreading.odd)
        if not signs:
            continue
        letters += signs
        for match in misreading.proof.finditer(line):
            word = _word_at(misreading, line, match)
            if not _UNITS.match(word):
                proofs += 1
                long_word |= len(word) > 3
    return proofs + letters / 1e6 if proofs and (proofs > 1 or letters > 1 or long_word) else 0.0


def _word_at(misreading: _Misreading, line: str, match: re.Match[str]) -> str:
    start, stop = match.span()
    while start > 0 and (line[start - 1].isalnum() or line[start - 1] in misreading.odd):
        start -= 1
    while stop < len(line) and (line[stop].isalnum() or line[stop] in misreading.odd):
        stop += 1
    return line[start:stop]


def _mend(misreading: _Misreading, match: re.Match[str]) -> str:
    word = match[0]
    if _UNITS.match(word) or not any(character.isascii() for character in word):
        return word
    return word.translate(misreading.table)
