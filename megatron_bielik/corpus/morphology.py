"""What a word form can be, in 64 bits: parts of speech, cases, tenses, kinds of names, and the language's word lists.

Analyses come from morfeusz2 with the SGJP dictionary (Kieraś and Woliński 2017; the tags are those of the National Corpus
of Polish), once per form: a form with several analyses gets the bits of all of them. Without a dictionary, suffixes give
the part of speech and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from megatron_bielik.corpus.language import Language, without_diacritics

# The order is that of csrc/text_features/language.hpp. The first part of speech in this order is a form's main one.
PARTS_OF_SPEECH = (
    "preposition", "subordinator", "conjunction", "pronoun", "numeral", "particle", "verb", "gerund", "participle",
    "adverbial_participle", "noun", "adjective", "adverb", "interjection", "abbreviation",
)  # fmt: skip
CASES = ("nom", "gen", "dat", "acc", "inst", "loc", "voc")
NUMBERS = ("sg", "pl")
GENDERS = ("m", "f", "n")
PERSONS = ("pri", "sec", "ter")
FORMS = ("present", "past", "future", "imperative", "infinitive", "impersonal", "conditional")
ASPECTS = ("imperf", "perf")
DEGREES = ("com", "sup")
NAMES = ("given_name", "surname", "place", "other_name")
SETS = (
    "stop_words", "negations", "connectives", "question_words", "foreign_stop_words", "web_words", "needs_diacritics",
)  # fmt: skip
_GROUPS = (PARTS_OF_SPEECH, CASES, NUMBERS, GENDERS, PERSONS, FORMS, ASPECTS, DEGREES, NAMES, SETS)
BITS = {name: 1 << i for i, name in enumerate(name for group in _GROUPS for name in group)}
ANALYSES_SHIFT = 52  # 4 bits: number of analyses, at most 15
_MOST_LETTERS = 64  # longer "words" are no words, and not looked up

# National Corpus tag -> part of speech and, for verbs, form.
_TAGS = {
    "subst": "noun", "depr": "noun", "adj": "adjective", "adja": "adjective", "adjc": "adjective", "adjp": "adjective",
    "adv": "adverb", "num": "numeral", "numcomp": "numeral", "romandig": "numeral", "dig": "numeral", "ppron12": "pronoun",
    "ppron3": "pronoun", "siebie": "pronoun", "fin": "verb", "bedzie": "verb", "praet": "verb", "cond": "verb", "impt": "verb",
    "imps": "verb", "inf": "verb", "pred": "verb", "winien": "verb", "aglt": "verb", "ger": "gerund", "ppas": "participle",
    "pact": "participle", "pacta": "participle", "pcon": "adverbial_participle", "pant": "adverbial_participle",
    "prep": "preposition", "conj": "conjunction", "comp": "subordinator", "part": "particle", "interj": "interjection",
    "brev": "abbreviation", "frag": "particle",
}  # fmt: skip
_FORMS = {
    "fin": "present", "bedzie": "future", "praet": "past", "cond": "conditional", "impt": "imperative", "imps": "impersonal",
    "inf": "infinitive", "pred": "impersonal", "winien": "present",
}  # fmt: skip
_NAME_KINDS = {"imię": "given_name", "nazwisko": "surname", "nazwa_geograficzna": "place"}
# Pronouns that the tag set counts as adjectives or nouns; relative and interrogative ones join clauses.
_PRONOUN_LEMMAS = frozenset(
    [
        "ten", "tamten", "ów", "mój", "twój", "swój", "nasz", "wasz", "jaki", "taki", "który", "czyj", "inny",
        "sam", "każdy", "żaden", "jakiś", "któryś", "wszelki", "to", "co", "kto", "ktoś", "coś", "nikt", "nic",
    ]
)  # fmt: skip


def analysis_bits(lemma: str, tag: str, labels: Iterable[str]) -> int:
    """Bits of one analysis such as ("dom", "subst:pl:inst:m3", ["nazwa_pospolita"])."""
    kind, *rest = tag.split(":")
    part = _TAGS.get(kind)
    if part is None:
        return 0
    if part in ("adjective", "noun") and lemma.split(":")[0] in _PRONOUN_LEMMAS:
        part = "pronoun"
    bits = BITS[part]
    values = {value for group in rest for value in group.split(".")}
    for value in values:
        if value in ("m1", "m2", "m3"):
            bits |= BITS["m"]
        elif value in BITS:
            bits |= BITS[value]
    if part == "verb":
        form = "future" if kind == "fin" and "perf" in values else _FORMS.get(kind)
        bits |= BITS[form] if form else 0
    names = [label for label in labels if label != "nazwa_pospolita" and label.startswith(("nazw", "imię"))]
    for label in names:
        bits |= BITS[_NAME_KINDS.get(label, "other_name")]
    return bits


class Morphology:
    """Attributes of word forms in one language.

    Args:
        language: Word lists, and which dictionary to ask.

    Raises:
        ImportError: The language names a dictionary whose package is not installed.
    """

    def __init__(self, language: Language) -> None:
        self.language = language
        self._sets: dict[str, int] = {}
        for name in SETS:
            for word in getattr(language, name):
                word = without_diacritics(word) if name == "needs_diacritics" else word
                self._sets[word] = self._sets.get(word, 0) | BITS[name]
        self._analyse, self.version = _dictionary(language)

    def attributes(self, form: str) -> int:
        """Bits of a form: lower case, or with one capital letter at its beginning. 0 parts of speech: not in the dictionary."""
        bits = self._sets.get(form.lower(), 0)
        if len(form) > _MOST_LETTERS:
            return bits
        found = [one for one in self._analyse(form) if one]
        for one in found:
            bits |= one
        return bits | min(len(found), 15) << ANALYSES_SHIFT


def _dictionary(language: Language) -> tuple[Callable[[str], list[int]], str]:
    if language.dictionary == "none":
        return _by_suffix(language), "suffixes"
    try:
        import morfeusz2
    except ImportError as error:
        raise ImportError(
            f"language {language.language} needs the package {language.dictionary}: pip install morfeusz2"
        ) from error
    # composite: "byłem" and "zrobiłbym" are one verb each, not a verb and an ending.
    morfeusz: Any = morfeusz2.Morfeusz(generate=False, praet="composite")

    def analyse(form: str) -> list[int]:
        arcs = [(node, tag) for node, _, tag in morfeusz.analyse(form)]
        # A fused form ("doń", "abym") has several segments: the first one is what the word is.
        return [analysis_bits(tag[1], tag[2], tag[3]) for node, tag in arcs if node == 0]

    return analyse, str(morfeusz.dict_id())


def _by_suffix(language: Language) -> Callable[[str], list[int]]:
    suffixes = sorted(
        ((s, part) for part, all in language.suffixes.items() for s in all), key=lambda x: (-len(x[0]), x)
    )

    def analyse(form: str) -> list[int]:
        return next(([BITS[part]] for suffix, part in suffixes if form.lower().endswith(suffix)), [])

    return analyse
