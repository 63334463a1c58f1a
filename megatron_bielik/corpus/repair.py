"""Repair of crawled text: wrong code pages, Unicode, entities, hyphenation, lines of the page, blank lines; twice is once.

Correct text comes out as it went in. Steps, each counted under its own name in Repaired.changes:

- entities (&nbsp; &oacute; &#322;) decoded, outside code;
- mojibake and code_page: text decoded wrongly (repair_encoding.py);
- controls, invisible (soft hyphens, zero-width and bidirectional marks), surrogates removed; line_ends, spaces (non-breaking
  and the exotic ones) made plain; joiners and variation selectors stay in emoji, joiners in the scripts that need them;
- ligatures (ﬁ ﬂ) written out; nfc, never NFKC: ½ and ² stay;
- hyphens at line ends joined, except those of compounds (polsko-niemiecki);
- boilerplate.KIND lines dropped (boilerplate.py); punctuation runs cut to three signs; trailing_spaces, blank_lines.

lost_characters counts U+FFFD, which stay: what stood there cannot be known.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from html.entities import html5

from megatron_bielik.corpus.boilerplate import drop_boilerplate
from megatron_bielik.corpus.repair_encoding import is_suspect, undo_code_page, undo_utf8_as_bytes

IsWord = Callable[[str], bool]


@dataclass(frozen=True)
class Repaired:
    """A repaired text and how many places of each kind were changed; kinds without a change are not there."""

    text: str
    changes: dict[str, int]


def repair(text: str, is_word: IsWord | None = None) -> Repaired:
    """Repair one document.

    Args:
        text: Any string, lone surrogates included.
        is_word: Tells words of a dictionary, small letters; decides between a word cut at a line end and a compound.

    Returns:
        The text, which repaired again stays as it is.
    """
    changes: Counter[str] = Counter()
    # One step can uncover work for an earlier one (a soft hyphen inside an entity); every step removes something, so it ends.
    while True:
        made = _once(text, changes, is_word)
        if made == text:
            break
        text = made
    lost = text.count("\ufffd")
    if lost:
        changes["lost_characters"] = lost
    return Repaired(text, {kind: count for kind, count in changes.items() if count})


def _once(text: str, changes: Counter[str], is_word: IsWord | None) -> str:
    text = _entities(text, changes)
    text = _encoding(text, changes)
    text = _characters(text, changes)
    return _lines(text, changes, is_word)


# ---- entities

_ENTITY = re.compile(r"&(?:amp;)*(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_CODE = re.compile(
    r"^(?P<fence>```+|~~~+)[^\n]*\n.*?(?:^(?P=fence)[`~]*[ \t]*$|\Z)|`[^`\n]+`", re.DOTALL | re.MULTILINE
)


def _entities(text: str, changes: Counter[str]) -> str:
    if "&" not in text or not _ENTITY.search(text):
        return text
    out, last = [], 0

    def decode(match: re.Match[str]) -> str:
        name = "&" + match[0][1:].replace("amp;", "") if match[0].count("&") == 1 and match[0] != "&amp;" else match[0]
        name = name if len(name) > 2 else "&amp;"
        if name[1] != "#" and name[1:] not in html5:
            # &amp;word; is an ampersand before a word that is no entity.
            decoded = "&" + match[0].rpartition("amp;")[2] if "amp;" in match[0] else match[0]
        else:
            decoded = html.unescape(name)
        changes["entities"] += decoded != match[0]
        return decoded

    for code in _CODE.finditer(text) if "`" in text or "~~~" in text else ():
        out += [_ENTITY.sub(decode, text[last : code.start()]), code[0]]
        last = code.end()
    return "".join([*out, _ENTITY.sub(decode, text[last:])])


# ---- encoding


def _encoding(text: str, changes: Counter[str]) -> str:
    if text.isascii():
        return text
    if is_suspect(text):
        lines = text.split("\n")
        for at, line in enumerate(lines):
            lines[at], count = undo_utf8_as_bytes(line)
            if count:
                changes["mojibake"] += count
        text = "\n".join(lines)
    text, count = undo_code_page(text)
    if count:
        changes["code_page"] += count
    return text


# ---- characters

_LINE_END = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_SPACE = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
_EMOJI = "\u00a9\u00ae\u203c\u2049\u2122\u2139\u2190-\u2bff\u3030\u303d\u3297\u3299\U0001f000-\U0001faff"
_SCRIPTS = "\u0600-\u08ff\u0900-\u0dff\u1000-\u109f\u1780-\u17ff\u1800-\u18af\ufb50-\ufdff\ufe70-\ufefe"
_INVISIBLE = re.compile(
    "[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffc]"
    # Joiners between letters of scripts that shape by them, and in emoji; selectors after emoji, digits and letters of Mongolian.
    f"|(?<![{_SCRIPTS}])\u200c|\u200c(?![{_SCRIPTS}])"
    f"|(?<![{_SCRIPTS}{_EMOJI}\ufe0f])\u200d|\u200d(?![{_SCRIPTS}{_EMOJI}])"
    f"|(?<![{_EMOJI}0-9#*])[\ufe0e\ufe0f]"
    "|(?<![\U0001f3f4\U000e0020-\U000e007f])[\U000e0020-\U000e007f]|\U000e0001"
)
_SURROGATE = re.compile("[\ud800-\udfff]+")
_LIGATURES = {"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st"}
_LIGATURE = re.compile("[ﬀ-ﬆ]")
_SOFT_BREAK = re.compile("(?<=[^\\W\\d_])\u00ad[ \t]*(?:\r\n?|\n)[ \t]*(?=[^\\W\\d_])")
_ODD = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\xa0\u00ad\u061c\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ud800-\udfff\ufb00-\ufb06\ufe0e\ufe0f\ufeff"
    "\ufff9-\ufffc\U000e0001-\U000e007f]"
)


def _characters(text: str, changes: Counter[str]) -> str:
    if _ODD.search(text):
        for kind, pattern, replacement in (
            ("hyphens", _SOFT_BREAK, ""),
            ("line_ends", _LINE_END, "\n"),
            ("controls", _CONTROL, ""),
            ("spaces", _SPACE, " "),
        ):
            text = _counted(pattern, replacement, text, kind, changes)
        text = _counted(_SURROGATE, _pairs, text, "surrogates", changes)
        text = _counted(_INVISIBLE, "", text, "invisible", changes)
        text = _counted(_LIGATURE, lambda match: _LIGATURES[match[0]], text, "ligatures", changes)
    if not unicodedata.is_normalized("NFC", text):
        composed = unicodedata.normalize("NFC", text)
        if composed != text:
            changes["nfc"] += max(1, len(text) - len(composed))
        text = composed
    return text


def _pairs(match: re.Match[str]) -> str:
    """Pairs of surrogates as the character they stand for; single ones go."""
    return match[0].encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore")


def _counted(
    pattern: re.Pattern[str],
    replacement: str | Callable[[re.Match[str]], str],
    text: str,
    kind: str,
    changes: Counter[str],
) -> str:
    made, count = pattern.subn(replacement, text)
    if count:
        changes[kind] += count
    return made


# ---- lines

_FIRST_HALF = re.compile(r"(?<![\w-])([^\W\d_]{2,})[-\u2010\u2011][ \t]*\Z")
_SECOND_HALF = re.compile(r"[ \t]*([^\W\d_]+)")
_LONGEST_HALF = 80  # letters; looking further back would make many joined lines slow
# Adjectives before a hyphen end like this: polsko-, biało-, społeczno-; but these are written together with what follows.
_LINKING = re.compile(
    r"\w+(?:[sc]ko|zko|czno|alno|ijno|yjno|owo|wno|tno|rno|ano|iało|arno|wono|esko|elono|ółto|aro|łoto|ebrno|dniowo|nocno|odnio)\Z"
)
_TOGETHER_WORDS = (
    "jedno równo różno wielko drobno pełno wolno trudno prawo lewo nowo słowo krótko długo szybko daleko "
    "wysoko nisko płytko głęboko lekko ciężko łatwo ogólno samo mało około wszystko czworo dawno często "
    "późno marno"
)
_TOGETHER = frozenset(_TOGETHER_WORDS.split())
_ADJECTIVE = re.compile(
    r"\w{2,}(?:[sc]k|[csr]z|zk|n|ow|t|r|ł|st|w|ż)(?:y|i|a|e|ego|iego|emu|iemu|ym|im|ej|iej|ą|ych|ich|ymi|imi)\Z"
)
_FENCE = re.compile(r"[ ]{0,3}(```+|~~~+)")
_RULE = re.compile(r"\s*(?:[-*_=~#+.–—]\s*){3,}\s*|[\s|:+=-]+")
_RUN = re.compile(r"([!?.,;:…*_=~–—-])\1{3,}")
_TRAILING = re.compile(r"[ \t]+$", re.MULTILINE)


def _lines(text: str, changes: Counter[str], is_word: IsWord | None) -> str:
    if " \n" in text or "\t\n" in text or text[-1:] in (" ", "\t"):
        text = _counted(_TRAILING, "", text, "trailing_spaces", changes)
    lines = text.split("\n")
    protected = _in_code(text, lines)
    if "-\n" in text or "\u2010\n" in text or "\u2011\n" in text:
        text = _join_hyphens(lines, protected, changes, is_word)
        lines = text.split("\n")
        protected = _in_code(text, lines)
    lines, protected, dropped = drop_boilerplate(lines, protected)
    for kind, count in dropped.items():
        changes[f"boilerplate.{kind}"] += count
    if _RUN.search(text):
        for at, line in enumerate(lines):
            if not protected[at] and not _RULE.fullmatch(line):
                lines[at] = _counted(_RUN, r"\1\1\1", line, "punctuation", changes)
    kept = [
        line
        for at, line in enumerate(lines)
        if line or protected[at] or (at and (lines[at - 1] or protected[at - 1])) or at == len(lines) - 1
    ]
    while kept and not kept[0] and len(kept) > 1:
        del kept[0]
    if len(kept) > 2 and not kept[-1] and not kept[-2]:
        del kept[-1]
    changes["blank_lines"] += len(lines) - len(kept)
    return "\n".join(kept)


def _in_code(text: str, lines: list[str]) -> list[bool]:
    """Whether each line belongs to a fenced block, its fences included; a fence never closed runs to the end."""
    if "```" not in text and "~~~" not in text:
        return [False] * len(lines)
    out, fence = list[bool](), ""
    for line in lines:
        match = _FENCE.match(line)
        if fence:
            out.append(True)
            if match and match[1].startswith(fence) and not line[match.end() :].strip():
                fence = ""
        else:
            fence = match[1] if match else ""
            out.append(bool(match))
    return out


def _join_hyphens(lines: list[str], protected: list[bool], changes: Counter[str], is_word: IsWord | None) -> str:
    out: list[str] = []
    for line, code in zip(lines, protected, strict=True):
        last = out[-1][-_LONGEST_HALF:] if out and not code else ""
        first = _FIRST_HALF.search(last) if last[-1:] in ("-", "\u2010", "\u2011") else None
        second = _SECOND_HALF.match(line) if first else None
        if first and second and second[1][0].islower() and (first.start() or len(out[-1]) < _LONGEST_HALF):
            changes["hyphens"] += 1
            joined = _join(first[1], second[1], is_word)
            out[-1] = out[-1][: len(out[-1]) - len(last) + first.start()] + joined + line[second.end() :]
        else:
            out.append(line)
    return "\n".join(out)


def _join(first: str, second: str, is_word: IsWord | None) -> str:
    if is_word is not None:
        if is_word((first + second).lower()):
            return first + second
        if is_word(first.lower()) and is_word(second.lower()):
            return f"{first}-{second}"
    compound = first.lower() not in _TOGETHER and _LINKING.match(first.lower()) and _ADJECTIVE.match(second)
    return f"{first}-{second}" if compound else first + second
