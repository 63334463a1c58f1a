"""The grammar of the synthetic corpus: phrases, sentences and documents in Polish, from inflected words.

Every sentence method returns a clause without capital letter and full stop; agreement, government of verbs and
prepositions, aspect and tense, and the genitive of negation are respected. What the sentences say means nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from random import Random
from typing import Any

from megatron_bielik.corpus import polish_lexicon as lexicon
from megatron_bielik.corpus.inflection import (
    A,
    D,
    Forms,
    G,
    I,
    L,
    N,
    Noun,
    Verb,
    conjugate,
    decline,
    decline_adjective,
    plural_form,
    split_table,
    with_w,
    with_z,
)

Adjective = dict[str, Forms]


def _nouns(kind: str, table: str) -> list[Noun]:
    return [decline(kind, parts) for parts in split_table(table)]


def _adjectives(table: str) -> list[Adjective]:
    return [decline_adjective(*parts) for parts in split_table(table)]


def _verbs(table: str) -> list[Verb]:
    return [conjugate(parts) for parts in split_table(table)]


def _people() -> list[Noun]:
    return _nouns("m1", lexicon.MEN) + _nouns("f", lexicon.WOMEN)


def _names() -> list[Noun]:
    """Every first name with every surname, as nouns without a plural."""
    names = []
    for kind, table in (("m1", lexicon.FIRST_NAMES_M1), ("f", lexicon.FIRST_NAMES_F)):
        for parts in split_table(table):
            # The plural slots are never used; the singular ones are those of the class.
            full = [*parts, *("",) * (6 - len(parts))] if kind == "m1" else [*parts, parts[0], parts[0]]
            first = decline(kind, full)
            for surname in lexicon.SURNAMES.split():
                last = decline_adjective(surname, surname)[kind]
                forms = tuple(f"{a} {b}" for a, b in zip(first.sg, last, strict=True))
                names.append(Noun(forms, forms, kind, "none"))  # type: ignore[arg-type]
    return names


class _Words:
    """All inflected words of one topic."""

    def __init__(self, topic: str) -> None:
        data = lexicon.TOPICS[topic]
        self.people = _nouns("m1", data["m1"]) + _nouns("ma", data.get("ma", "")) + _nouns("f", data["f1"]) + _people()
        # Interleaved, so that the skewed choice does not always prefer one gender.
        groups = [_nouns(kind, data.get(kind, "")) for kind in ("f", "m3", "n", "m2", "fc")]
        ranked = [(i / len(group), noun) for group in groups for i, noun in enumerate(group)]
        self.things = [noun for _, noun in sorted(ranked, key=lambda pair: pair[0])]
        self.inside = [decline(parts[0], parts[1:]) for parts in split_table(data["w"])]
        self.upon = [decline(parts[0], parts[1:]) for parts in split_table(data["na"])]
        self.adjectives = _adjectives(data["adjectives"]) + _adjectives(lexicon.THING_ADJECTIVES)
        self.imperfective = _verbs(data["ipf"]) + _verbs(lexicon.IMPERFECTIVE)
        self.perfective = _verbs(data["pf"]) + _verbs(lexicon.PERFECTIVE)


@cache
def _words(topic: str) -> _Words:
    return _Words(topic)


class _Common:
    """Inflected words that every topic shares; built once, on first use."""

    def __init__(self) -> None:
        self.names = _names()
        self.people_adjectives = _adjectives(lexicon.PEOPLE_ADJECTIVES)
        self.with_genitive = _verbs(lexicon.WITH_GENITIVE)
        self.with_instrumental = _verbs(lexicon.WITH_INSTRUMENTAL)
        self.about = _verbs(lexicon.WITH_LOCATIVE_O)
        self.upon = _verbs(lexicon.WITH_ACCUSATIVE_NA)
        self.to_person = _verbs(lexicon.WITH_DATIVE_PERSON)
        self.with_person = _verbs(lexicon.WITH_INSTRUMENTAL_PERSON)
        self.cities = split_table(lexicon.CITIES)
        self.months = lexicon.MONTHS_GENITIVE.split()
        self.distances = split_table(lexicon.DISTANCES)
        self.durations = split_table(lexicon.DURATIONS)
        self.frame = conjugate(["być", "jest", "są"])


_common = cache(_Common)

_SUBORDINATE = ("Wiadomo, że ", "Mówi się, że ", "Trudno uwierzyć, że ", "Warto pamiętać, że ", "Nikt nie wątpi, że ")
_WILL = {False: "będzie", True: "będą"}
_MODALS = (("może", "mogą"), ("musi", "muszą"), ("chce", "chcą"), ("potrafi", "potrafią"), ("powinien", ""))
_OUGHT = {"m1": "powinien", "f": "powinna", "virile": "powinni", "other": "powinny"}
_WHO = {"m1": "który", "m2": "który", "m3": "który", "f": "która", "n": "które", "virile": "którzy", "other": "które"}
_PAST_TIMES = ("wczoraj", "dawniej", "kiedyś", "w zeszłym roku", "przed laty", "tamtego dnia", "poprzedniej zimy")
_PRESENT_TIMES = ("często", "dziś", "zwykle", "rzadko", "zawsze", "czasami", "codziennie", "coraz częściej")
_FUTURE_TIMES = ("jutro", "wkrótce", "za rok", "w przyszłości", "niedługo", "za tydzień")


class Document:
    """One document: its cast and its sentences.

    Args:
        rng: Source of every choice.
        topic: A key of polish_lexicon.TOPICS.
    """

    def __init__(self, rng: Random, topic: str) -> None:
        self.random = rng.random
        self.words = _words(topic)
        self.common = _common()
        # The cast: what this document is about.
        self.cast = [self.pick(self.words.people) for _ in range(3)] + [self.pick(self.common.names)]
        self.things = [self.pick(self.words.things) for _ in range(7)]

    def pick(self, items: Any) -> Any:
        """One item; earlier ones are likelier (density falls as 1 / sqrt of the position)."""
        return items[int(self.random() ** 2 * len(items))]

    def member(self, items: list[Noun]) -> Noun:
        """One of the cast, all equally likely."""
        return items[int(self.random() * len(items))]

    # Phrases

    def subject(self) -> tuple[str, str, bool]:
        """A subject in the nominative, its gender for agreement, and whether it is plural."""
        noun = self.member(self.cast)
        if noun.pl_gender == "none":
            return noun.sg[N], noun.sg_gender, False
        plural = self.random() < 0.3
        gender = noun.pl_gender if plural else noun.sg_gender
        word = (noun.pl if plural else noun.sg)[N]
        if self.random() < 0.4:
            word = f"{self.pick(self.common.people_adjectives)[gender][N]} {word}"
        return word, gender, plural

    def person(self, case: int) -> str:
        """Somebody else, in any case."""
        noun = self.pick(self.words.people)
        if self.random() < 0.3:
            return f"{self.pick(self.common.people_adjectives)[noun.sg_gender][case]} {noun.sg[case]}"
        return str(noun.sg[case])

    def phrase(self, noun: Noun, case: int, adjective_share: float = 0.5) -> str:
        """A noun in a case, either number, often with an adjective."""
        plural = self.random() < 0.35
        word = (noun.pl if plural else noun.sg)[case]
        if self.random() < adjective_share:
            gender = noun.pl_gender if plural else noun.sg_gender
            return f"{self.pick(self.words.adjectives)[gender][case]} {word}"
        return word

    def thing(self, case: int) -> str:
        """A thing of this document's cast, sometimes two, in any case."""
        noun = self.member(self.things)
        first = self.phrase(noun, case)
        if self.random() < 0.12:
            other = self.pick(self.words.things)
            if other is not noun:
                return f"{first} i {self.phrase(other, case, 0.2)}"
        return first

    def place(self) -> str:
        """Where: w or na with the locative."""
        r = self.random()
        if r < 0.2:
            return with_w(self.pick(self.common.cities)[2])
        if r < 0.65:
            return with_w(self.phrase(self.pick(self.words.inside), L, 0.3))
        return "na " + self.phrase(self.pick(self.words.upon), L, 0.3)

    def predicate(self, gender: str, plural: bool) -> str:
        """A verb with its object, in a tense; sometimes negated, which turns the accusative into a genitive."""
        r = self.random()
        negated = self.random() < 0.13
        no, case = ("nie ", G) if negated else ("", A)
        if r < 0.22:
            verb = self.pick(self.words.imperfective)
            return f"{no}{verb.present_pl if plural else verb.present_sg} {self.thing(case)}"
        if r < 0.5:
            verb = self.pick(self.words.perfective)
            return f"{no}{verb.past[gender]} {self.thing(case)}"
        if r < 0.6:
            return f"{no}{self.modal(gender, plural)} {self.pick(self.words.perfective).infinitive} {self.thing(case)}"
        if r < 0.68:
            verb = self.pick(self.words.imperfective)
            return f"{no}{_WILL[plural]} {verb.infinitive} {self.thing(case)}"
        past = self.random() < 0.5
        verb, rest = self.governed()
        form = verb.past[gender] if past else verb.present_pl if plural else verb.present_sg
        return f"{no}{form} {rest}"

    def modal(self, gender: str, plural: bool) -> str:
        singular_form, plural_form_ = self.pick(_MODALS)
        return _OUGHT[gender] if singular_form == "powinien" else plural_form_ if plural else singular_form

    def governed(self) -> tuple[Verb, str]:
        """A verb that governs another case than the accusative, and its object."""
        r, common = self.random(), self.common
        if r < 0.2:
            return self.pick(common.with_genitive), self.thing(G)
        if r < 0.35:
            return self.pick(common.with_instrumental), self.thing(I)
        if r < 0.6:
            return self.pick(common.about), "o " + self.thing(L)
        if r < 0.75:
            return self.pick(common.upon), "na " + self.thing(A)
        if r < 0.87:
            return self.pick(common.to_person), self.person(D)
        return self.pick(common.with_person), with_z(self.person(I))

    # Sentences, without capital letter and full stop

    def plain(self) -> str:
        """Subject, predicate, often a place."""
        words, gender, plural = self.subject()
        where = f" {self.place()}" if self.random() < 0.4 else ""
        return f"{words} {self.predicate(gender, plural)}{where}"

    def timed(self) -> str:
        """Time, verb, subject, object: the tense follows from the adverb."""
        words, gender, plural = self.subject()
        r = self.random()
        if r < 0.4:
            verb = self.pick(self.words.perfective)
            return f"{self.pick(_PAST_TIMES)} {words} {verb.past[gender]} {self.thing(A)}"
        if r < 0.75:
            verb = self.pick(self.words.imperfective)
            return (
                f"{self.pick(_PRESENT_TIMES)} {words} {verb.present_pl if plural else verb.present_sg} {self.thing(A)}"
            )
        verb = self.pick(self.words.perfective)
        return f"{self.pick(_FUTURE_TIMES)} {words} {verb.present_pl if plural else verb.present_sg} {self.thing(A)}"

    def described(self) -> str:
        """A thing that is, was or becomes something: an adjective that agrees with it."""
        noun, plural = self.member(self.things), self.random() < 0.35
        gender, word = (noun.pl_gender, noun.pl[N]) if plural else (noun.sg_gender, noun.sg[N])
        adjective = self.pick(self.words.adjectives)[gender][N]
        copula = self.common.frame.past[gender] if self.random() < 0.4 else "są" if plural else "jest"
        where = f"{self.place()} " if self.random() < 0.35 else ""
        return f"{where}{word} {copula} {self.pick(('bardzo ', '', 'dość ', 'naprawdę '))}{adjective}"

    def relative(self) -> str:
        """A subject with a relative clause."""
        words, gender, plural = self.subject()
        return f"{words}, {_WHO[gender]} {self.predicate(gender, plural)}, {self.predicate(gender, plural)}"

    def reason(self) -> str:
        """Two clauses joined by a conjunction."""
        joint = self.pick((", ponieważ ", ", ale ", ", gdy ", ", więc ", ", chociaż "))
        return f"{self.plain()}{joint}{self.plain()}"

    def subordinate(self) -> str:
        """An opening that takes a clause with że."""
        return f"{self.pick(_SUBORDINATE)}{self.plain()}"

    def measured(self) -> str:
        """A number with a noun: the numeral decides case and verb (3 lata minęły, 5 lat minęło)."""
        r = self.random()
        if r < 0.3:  # 5 to 20 all take the genitive plural
            number = 5 + int(self.random() ** 2 * 16)
            verb = self.pick(("czekało", "było", "znaleziono"))
            return f"{self.place()} {verb} {number} {self.member(self.things).pl[G]}"
        number = 2 + int(self.random() ** 2 * 120)
        form = plural_form(number)
        if r < 0.65:
            left = ("", "zostały", "zostało")[form]
            return f"do {self.pick(self.common.cities)[1]} {left} {number} {self.pick(self.common.distances)[form]}"
        words, gender, _ = self.subject()
        passed = ("", "minęły", "minęło")[form]
        since = self.pick(self.words.perfective).past[gender]
        return f"{passed} {number} {self.pick(self.common.durations)[form]}, odkąd {words} {since} {self.thing(A)}"

    def dated(self) -> str:
        """A date, then what happened."""
        words, gender, _ = self.subject()
        year, day = 1410 + int(self.random() * 615), 1 + int(self.random() * 28)
        when = f"w {year} roku" if self.random() < 0.6 else f"{day} {self.pick(self.common.months)} {year} roku"
        return f"{when} {words} {self.pick(self.words.perfective).past[gender]} {self.thing(A)}"

    def journey(self) -> str:
        """From somewhere to somewhere."""
        words, gender, _ = self.subject()
        went = {"m1": "wrócił", "f": "wróciła", "virile": "wrócili", "other": "wróciły"}[gender]
        origin, city = self.pick(self.words.upon), self.pick(self.common.cities)
        target = f"do {city[1]}" if self.random() < 0.5 else f"do {self.phrase(self.pick(self.words.inside), G, 0.3)}"
        return f"{words} {went} {with_z(self.phrase(origin, G, 0.3))} {target}"

    def quoted(self) -> str:
        """Somebody says something, in Polish quotation marks."""
        words, gender, _ = self.subject()
        said = {"m1": "powiedział", "f": "powiedziała", "virile": "powiedzieli", "other": "powiedziały"}[gender]
        return f"{words} {said}: „{_capital(self.described())}”"

    def without(self) -> str:
        """Prepositions with the genitive, instrumental and dative."""
        words, gender, plural = self.subject()
        opening = self.pick(
            (
                lambda: "bez " + self.thing(G),
                lambda: "dzięki " + self.person(D),
                lambda: "przed " + self.phrase(self.pick(self.words.inside), I, 0.3),
                lambda: "podczas " + self.phrase(self.member(self.things), G),
                lambda: "razem " + with_z(self.person(I)),
                lambda: "mimo " + self.phrase(self.member(self.things), G),
            )
        )()
        return f"{opening} {words} {self.predicate(gender, plural)}"

    def question(self) -> str:
        """A question about the cast."""
        words, gender, plural = self.subject()
        return f"czy {words} {self.predicate(gender, plural)}"

    # Documents

    def sentence(self) -> str:
        """One sentence with capital letter and full stop."""
        make, end = self.pick(_KINDS)
        return _capital(make(self)) + end

    def title(self) -> str:
        """A heading."""
        r = self.random()
        if r < 0.3:
            return _capital("o " + self.thing(L))
        if r < 0.55:
            return f"Jak {self.pick(self.words.perfective).infinitive} {self.thing(A)}?"
        if r < 0.75:
            return _capital(f"{self.thing(N)} {self.place()}")
        return _capital(f"{self.person(N)} i {self.thing(N)}")

    def text(self) -> str:
        """Title and paragraphs, separated by blank lines."""
        parts = [self.title()]
        for _ in range(2 + int(self.random() * 6)):
            parts.append(" ".join([self.sentence() for _ in range(2 + int(self.random() * 5))]))
        return "\n\n".join(parts)


# Likeliest first, see pick.
_KINDS: tuple[tuple[Callable[[Document], str], str], ...] = (
    (Document.plain, "."),
    (Document.timed, "."),
    (Document.described, "."),
    (Document.relative, "."),
    (Document.reason, "."),
    (Document.dated, "."),
    (Document.without, "."),
    (Document.subordinate, "."),
    (Document.journey, "."),
    (Document.measured, "."),
    (Document.question, "?"),
    (Document.quoted, "."),
)


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
