"""A text cut into words, tokens, lines and sentences in plain Python, from the definitions in csrc/text_features/scan.hpp."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from megatron_bielik.corpus import morphology as m
from megatron_bielik.corpus.language import Language, character_class, simple_lower

LETTERS = {"lower", "upper", "letter", "mark"}


@dataclass(frozen=True)
class Word:
    text: str
    start: int
    bits: int
    lower: str

    @property
    def capital(self) -> bool:
        return character_class(self.text[0]) == "upper"

    def has(self, name: str) -> bool:
        return bool(self.bits & m.BITS[name])

    def values(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if self.has(name)]

    @property
    def part(self) -> str | None:
        return next(iter(self.values(m.PARTS_OF_SPEECH)), None)

    @property
    def uppers(self) -> int:
        return sum(character_class(c) == "upper" for c in self.text)


def ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


def mean(values: Iterable[float]) -> float:
    values = list(values)
    return fmean(values) if values else 0.0


def entropy(counts: Iterable[float]) -> float:
    counts = [n for n in counts if n]
    return -sum(n / sum(counts) * math.log2(n / sum(counts)) for n in counts) if counts else 0.0


def duplicates(items: Sequence[object]) -> float:
    return 1 - len(set(items)) / len(items) if items else 0.0


class Text:
    """A text cut as scan.hpp says."""

    def __init__(self, text: str, language: Language, bits: Callable[[str], int]) -> None:
        self.text, self.language = text, language
        self.kinds = [character_class(c) for c in text]
        self.words: list[Word] = []
        for begin, end in self.runs(lambda kind: kind in LETTERS):
            word = text[begin:end]
            self.words.append(Word(word, begin, bits(word), "".join(map(simple_lower, word))))
        self.tokens = self.runs(lambda kind: kind not in ("space", "newline"))
        self.lines = [line.strip() for line in text.split("\n")]
        if text.endswith("\n") or not text:
            self.lines.pop()  # what follows the last line feed is no line
        self.sentences = self.cut_sentences()

    def runs(self, member: Callable[[str], bool]) -> list[tuple[int, int]]:
        runs, begin = [], None
        for i, kind in enumerate([*self.kinds, "end"]):
            inside = kind != "end" and member(kind)
            if inside and begin is None:
                begin = i
            elif not inside and begin is not None:
                runs.append((begin, i))
                begin = None
        return runs

    def letter(self, i: int) -> bool:
        return 0 <= i < len(self.text) and self.kinds[i] in LETTERS

    def space(self, i: int) -> bool:
        return i >= len(self.text) or self.text[i].isspace()

    def cut_sentences(self) -> list[tuple[list[Word], str]]:
        """Words and terminal (. ? ! e or nothing) of each sentence."""
        ends: list[tuple[int, str]] = []
        text = self.text
        for match in re.finditer(r"\n", text):
            at = match.start()
            if at and ends and ends[-1][0] > at:
                continue
            # Only the first line feed of a stretch of white space decides.
            before = at
            while before > 0 and text[before - 1].isspace() and text[before - 1] != "\n":
                before -= 1
            if before > 0 and text[before - 1] == "\n":
                continue
            rest = text[at:]
            gap = rest[: len(rest) - len(rest.lstrip())]
            following = rest.lstrip()[:1]
            if not (gap.count("\n") == 1 and following and character_class(following) == "lower"):
                ends.append((at, ""))
        for match in re.finditer(r"[.!?…]+[\"')\]”’»]*", text):
            marks, after = match.group(), match.end()
            if not self.space(after):
                continue
            following = text[after:].lstrip()[:1]
            if following and character_class(following) == "lower":
                continue
            terminals = re.match(r"[.!?…]+", marks).group()
            if terminals == "." and self.abbreviated(match.start()):
                continue
            dots = terminals.count(".") + 2 * terminals.count("…")
            kind = "?" if "?" in terminals else "!" if "!" in terminals else "e" if dots >= 2 else "."
            ends.append((match.start(), kind))
        ends.append((len(text), ""))
        ends.sort()
        sentences, first = [], 0
        for at, kind in ends:
            last = next((i for i in range(first, len(self.words)) if self.words[i].start >= at), len(self.words))
            if last > first:
                sentences.append((self.words[first:last], kind))
            first = last
        return sentences

    def abbreviated(self, stop: int) -> bool:
        word = next((w for w in reversed(self.words) if w.start < stop), None)
        if word is None or word.start + len(word.text) != stop:
            return False
        return len(word.text) == 1 or word.lower in self.language.abbreviations
