"""A language as data: letters, word lists and suffixes from languages/*.yaml, and Unicode's properties as tables for the C++."""

from __future__ import annotations

import hashlib
import json
import string
import unicodedata
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import yaml

_FOLDER = Path(__file__).parent / "languages"

# Bits 0-3 of a character's properties, in the order of `enum Class` in csrc/text_features/language.hpp.
CLASSES = (
    "other", "lower", "upper", "letter", "mark", "digit", "number", "space", "newline", "punctuation", "symbol", "control",
    "format", "emoji",
)  # fmt: skip
_BY_CATEGORY = {
    "Ll": "lower", "Lu": "upper", "Lt": "upper", "Lm": "letter", "Lo": "letter", "Nd": "digit", "Nl": "number", "No": "number",
    "Cc": "control", "Cf": "format",
}  # fmt: skip
_BY_GROUP = {"M": "mark", "P": "punctuation", "S": "symbol"}
VOWEL, DIACRITIC, GLIDE, NATIVE, INDEX_SHIFT = 1 << 4, 1 << 5, 1 << 6, 1 << 7, 8
TABLE_SIZE = 0x20000  # planes 0 and 1 of Unicode; of the others, planes 2 and 3 are ideographs


@dataclass(frozen=True)
class Language:
    """What the features know of a language. See languages/pl.yaml for what each entry means."""

    language: str
    letters: str
    diacritics: str
    vowels: str
    glide: str
    dictionary: Literal["morfeusz2", "none"]
    stop_words: frozenset[str]
    negations: frozenset[str]
    connectives: frozenset[str]
    question_words: frozenset[str]
    foreign_stop_words: frozenset[str]
    web_words: frozenset[str]
    abbreviations: frozenset[str]
    needs_diacritics: frozenset[str]
    suffixes: dict[str, tuple[str, ...]]

    def digest(self) -> str:
        """SHA-256 of all entries, 16 digits: another one where a feature may have another value."""
        entries = {name: sorted(value) if isinstance(value, frozenset) else value for name, value in vars(self).items()}
        return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()[:16]


def load_language(name: str) -> Language:
    """Read languages/NAME.yaml, or any path that ends in .yaml.

    Raises:
        ValueError: No such language, or a file that lacks an entry or has one too many.
    """
    path = Path(name) if name.endswith(".yaml") else _FOLDER / f"{name}.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        known = ", ".join(sorted(file.stem for file in _FOLDER.glob("*.yaml") if not file.match("*.grammar.yaml")))
        raise ValueError(
            f"language {name!r} is not known, needs one of {known}, or the path of a .yaml file"
        ) from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    fields = set(Language.__dataclass_fields__)
    if not isinstance(content, dict) or set(content) != fields:
        differing = fields.symmetric_difference(content if isinstance(content, dict) else ())
        raise ValueError(
            f"{path} needs exactly the entries of languages/pl.yaml; differing: {', '.join(sorted(differing))}"
        )
    suffixes = {part: tuple(words.split()) for part, words in content.pop("suffixes").items()}
    plain = {"letters", "diacritics", "vowels", "glide", "language", "dictionary"}
    entries: dict[str, Any] = {
        key: value if key in plain else frozenset(value.split()) for key, value in content.items()
    }
    return Language(**entries, suffixes=suffixes)


def without_diacritics(text: str) -> str:
    """Text as typed on a keyboard without the language's diacritics: ł becomes l, marks fall."""
    plain = text.replace("ł", "l").replace("Ł", "L")
    return "".join(c for c in unicodedata.normalize("NFD", plain) if not unicodedata.combining(c))


def simple_lower(character: str) -> str:
    """Lower case where it is one character, else the character itself (İ keeps its length)."""
    lower = character.lower()
    return lower if len(lower) == 1 else character


def character_class(character: str) -> str:
    """One of CLASSES. Line feed is "newline"; what Python's str.isspace accepts besides is "space".

    Beyond the first two planes whole ranges have one class: ideographs, tags and variation selectors.
    """
    if ord(character) >= TABLE_SIZE:
        ranges = ((0x40000, "letter"), (0xE0001, "other"), (0xE0080, "format"), (0xE0100, "other"), (0xE01F0, "mark"))
        return next((name for end, name in ranges if ord(character) < end), "other")
    if character == "\n":
        return "newline"
    if character.isspace():
        return "space"
    category = unicodedata.category(character)
    if category == "So" and (0x2600 <= ord(character) <= 0x27BF or 0x1F300 <= ord(character) <= 0x1FAFF):
        return "emoji"
    return _BY_CATEGORY.get(category) or _BY_GROUP.get(category[0], "other")


@cache
def _classes() -> npt.NDArray[np.uint16]:
    number = {name: i for i, name in enumerate(CLASSES)}
    return np.array([number[character_class(chr(c))] for c in range(TABLE_SIZE)], np.uint16)


def character_tables(language: Language) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint32]]:
    """Properties and lower case of the characters below TABLE_SIZE: uint16 and uint32 [TABLE_SIZE]."""
    properties = _classes().copy()
    bits = (
        (VOWEL, language.vowels),
        (DIACRITIC, language.diacritics),
        (GLIDE, language.glide),
        (NATIVE, language.letters),
    )
    for bit, letters in bits:
        for letter in letters + letters.upper():
            properties[ord(letter)] |= bit
    for letter in string.ascii_letters:
        properties[ord(letter)] |= (ord(letter) & 31) << INDEX_SHIFT
    for letter in language.letters:
        if not letter.isascii():
            for form in letter + letter.upper():
                properties[ord(form)] |= (32 + (ord(letter) & 31)) << INDEX_SHIFT
    lower = np.array([ord(simple_lower(chr(c))) for c in range(TABLE_SIZE)], np.uint32)
    return properties, lower
