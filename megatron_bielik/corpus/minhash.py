"""MinHash signatures of documents in C++, the same numbers as datatrove's MinhashDedupSignature.

Text is simplified as datatrove's simplify_text does (lower case; numbers to 0; punctuation and white space to one space;
canonical decomposition without non-spacing marks), cut into words at spaces, hashed by n-grams of words (xxh64), and the
minima over num_buckets * hashes_per_bucket permutations (x * a + b mod 2^64) mod 2^61 - 1 are the signature. A document
with fewer than n_grams words has none: it is nobody's duplicate, here as in datatrove.

Words: for Polish, datatrove cuts the simplified text with spaCy's blank "pl" tokenizer, at 1 to 2 MB/s. Since punctuation
is gone by then, that is almost the same as cutting at spaces: on Polish manual pages (55,000 words) spaCy 3.8 cuts 0.01%
of the words further, on English documentation 0.06%: units after a number (0gb), and quotation marks, frames and symbols
that simplify_text leaves in place. MinhashSignature(words="pl") asks for spaCy's words.

Source: csrc/minhash.cpp. What each code point becomes is not written there but tabulated here, from the unicodedata and
regex modules that datatrove itself calls, so both sides follow the same version of Unicode.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import regex
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.utils.hashing import HashConfig, create_hash_func
from datatrove.utils.text import NUMBERS_PATTERN, PUNCTUATION_TRANS, TextNormConfig, ngrams, simplify_text
from datatrove.utils.word_tokenizers import WordTokenizer

try:
    from megatron_bielik import _minhash as _native
except ImportError as error:  # a source tree that was never built, or built for another Python
    raise ImportError(
        "megatron_bielik._minhash is not built for this Python; run `pip install -e .` in the repository"
    ) from error

U64 = npt.NDArray[np.uint64]
NO_SIGNATURE = np.uint64(2**63 - 1)
"""Fills the row of a document without signature; above every hash."""

_LETTER, _SPACE, _DIGIT, _DROP, _BREAK, _MARK, _SEQUENCE, _SEPARATOR = range(8)
_MERSENNE_PRIME = (1 << 61) - 1
# Planes 4 to 13, 15 and 16 are unassigned or private: their code points stay as they are.
_PLANES = (*range(0xD800), *range(0xE000, 0x40000), *range(0xE0000, 0xF0000))


def _element(character: str) -> int:
    """Table entry of a code point that is decomposed already."""
    combining, spacing = unicodedata.combining(character), unicodedata.category(character) != "Mn"
    if not combining:
        return ord(character) if spacing else _BREAK << 29
    return _MARK << 29 | combining << 21 | ord(character) if spacing else _DROP << 29


@lru_cache(maxsize=1)
def simplify_tables() -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """What simplify_text makes of each code point, as csrc/minhash.cpp reads it; about 0.3 s, once in a process.

    Returns:
        Entries: uint32 [0x110000], kind << 29 | payload. Pool: uint32, sequences of entries, each after its length.
    """
    entries = np.arange(0x110000, dtype=np.uint32)
    characters = [chr(code) for code in _PLANES]
    digits = set(regex.findall(r"\p{Nd}", "".join(characters)))
    unlike_themselves = [
        character
        for character in characters
        if character in digits
        or not (character.isalpha() or unicodedata.category(character) in ("Cn", "Co"))
        or not (character.lower() == character and unicodedata.is_normalized("NFD", character))
    ]
    numbers = NUMBERS_PATTERN.findall("0" + "0".join(set(unlike_themselves) - digits) + "0")
    separators = {number[0] for number in numbers if number}
    spaces = {character for character in unlike_themselves if character.translate(PUNCTUATION_TRANS).isspace()}
    pool: list[int] = []
    places: dict[tuple[int, ...], int] = {}
    for character in unlike_themselves:
        lower = character.lower()
        if lower in digits:
            entry = _DIGIT << 29
        elif lower in separators:
            entry = _SEPARATOR << 29 | (0 if lower in spaces else ord(lower))
        elif lower in spaces:
            entry = _SPACE << 29
        else:
            parts = tuple(_element(part) for part in unicodedata.normalize("NFD", lower))
            parts = tuple(part for part in parts if part != _DROP << 29) or (_DROP << 29,)
            if len(parts) == 1:
                entry = parts[0]
            else:
                place = places.setdefault(parts, len(pool))
                if place == len(pool):
                    pool += (len(parts), *parts)
                entry = _SEQUENCE << 29 | place
        entries[ord(character)] = entry
    sequences = np.array(pool, np.uint32)
    entries.flags.writeable = sequences.flags.writeable = False
    return entries, sequences


def _lowered(text: str) -> str:
    """The text itself, or its lower case if it has the one letter whose lower case depends on its neighbours."""
    return text.lower() if "Σ" in text else text


def simplified_words(text: str) -> list[str]:
    """`simplify_text(text).split()` of datatrove, in C++.

    A lone surrogate stays what it is; datatrove hashes UTF-8 and fails there with a UnicodeEncodeError.
    """
    return _native.simplify(_lowered(text), *simplify_tables()).decode("utf-8", "surrogatepass").split()


class SpaceWords(WordTokenizer):
    """Words of simplified text, cut at white space: what the signatures here use, for datatrove's own steps."""

    def __init__(self) -> None:
        super().__init__("pl")

    def word_tokenize(self, text: str) -> list[str]:
        return text.split()

    def sent_tokenize(self, text: str) -> list[str]:
        """The lines that are not blank; MinHash does not call it."""
        return [line.strip() for line in text.splitlines() if line.strip()]

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        """Where those lines begin and end, code points."""
        spans, at = [], 0
        for line in self.sent_tokenize(text):
            at = text.index(line, at)
            spans.append((at, at + len(line)))
            at += len(line)
        return spans


@dataclass(frozen=True)
class Signer:
    """Signatures under one configuration.

    Attributes:
        config: datatrove's MinhashConfig. Its default (xxh64, 5-grams, 14 buckets of 8) runs in C++ from text to
            signature; with another hash or normalization the n-grams come from datatrove and only the minima from C++.
        words: Cuts simplified text into words; anything but SpaceWords takes the slower way too.
        a: uint64 [hashes], factors of the permutations. b: uint64 [hashes], their offsets. Both follow from the seed.
    """

    config: MinhashConfig
    words: WordTokenizer
    a: U64
    b: U64

    @classmethod
    def of(cls, config: MinhashConfig | None = None, words: WordTokenizer | None = None) -> Signer:
        """A Signer with the permutations that datatrove draws for the same seed.

        Raises:
            ValueError: n_grams, num_buckets or hashes_per_bucket below 1.
        """
        config = config or MinhashConfig()
        for name in ("n_grams", "num_buckets", "hashes_per_bucket"):
            if getattr(config, name) < 1:
                raise ValueError(f"{name} is {getattr(config, name)}, needs 1 or more")
        draws, count = np.random.RandomState(config.seed), config.num_buckets * config.hashes_per_bucket
        a = draws.randint(1, _MERSENNE_PRIME, dtype=np.uint64, size=count)
        b = draws.randint(0, _MERSENNE_PRIME, dtype=np.uint64, size=count)
        return cls(config, words or SpaceWords(), a, b)

    @property
    def native(self) -> bool:
        """Whether C++ does everything: 64-bit xxhash, datatrove's default normalization, words cut at spaces."""
        config, default = self.config, (TextNormConfig(), HashConfig(precision=64, hash_fc="xxhash"))
        return (config.norm_config, config.hash_config) == default and type(self.words) is SpaceWords

    def shingles(self, text: str) -> U64:
        """Hashes of the text's n-grams in order: uint64 [max(0, words - n_grams + 1)]."""
        if self.native:
            return _native.shingles(_lowered(text), self.config.n_grams, *simplify_tables())
        # The functions for bytes: xxhash 4 no longer takes a str, and datatrove 0.10 hands it one.
        hash_function: Any = create_hash_func(self.config.hash_config, bytes)
        words = self.words.word_tokenize(simplify_text(text, self.config.norm_config))
        hashes = [
            hash_function(" ".join(ngram).encode("utf-8", "surrogatepass"))
            for ngram in ngrams(words, self.config.n_grams)
        ]
        return np.array(hashes, dtype=np.uint64)

    def minima(self, shingles: U64) -> U64:
        """Smallest value of each permutation over the shingles: uint64 [hashes]; NO_SIGNATURE if there are none.

        Raises:
            TypeError: shingles of another dtype.
        """
        return _native.minima(shingles.ravel(), self.a, self.b, self.config.hash_config.precision)

    def signatures(self, texts: Sequence[str]) -> tuple[U64, npt.NDArray[np.bool_]]:
        """Signatures of many texts; other threads run meanwhile.

        Returns:
            uint64 [texts, hashes], rows of texts without n-grams filled with NO_SIGNATURE, and bool [texts], True where
            there is a signature.

        Raises:
            TypeError: Something that is not a str among the texts.
        """
        if self.native:
            lowered = [_lowered(text) for text in texts]
            rows = _native.signatures(lowered, self.config.n_grams, self.a, self.b, *simplify_tables())
        else:
            rows = np.empty((len(texts), len(self.a)), np.uint64)
            for row, text in zip(rows, texts, strict=True):
                row[:] = self.minima(self.shingles(text))
        return rows, rows[:, 0] != NO_SIGNATURE
