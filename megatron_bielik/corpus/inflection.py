"""Polish inflection by rule: nouns, adjectives and past tenses from the principal parts in polish_lexicon.py.

Cases are indexed N, G, D, A, I, L = 0..5. The rules hold for the classes named there; the tables hold no others.
"""

from __future__ import annotations

from dataclasses import dataclass

N, G, D, A, I, L = range(6)  # noqa: E741 (the usual letter of the instrumental)
Forms = tuple[str, str, str, str, str, str]


@dataclass(frozen=True, slots=True)
class Noun:
    """A noun: its six forms in both numbers, and the gender that adjectives and verbs must agree with.

    `sg_gender`: m1 (person), m2 (animal), m3 (thing), f or n; `pl_gender`: virile for groups with men, else other.
    """

    sg: Forms
    pl: Forms
    sg_gender: str
    pl_gender: str


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb: infinitive, present (or perfective future) by number, past by gender; "się" is part of the forms."""

    infinitive: str
    present_sg: str
    present_pl: str
    past: dict[str, str]


def split_table(table: str) -> list[list[str]]:
    """Entries of a lexicon table (separated by semicolons or line ends) as lists of words."""
    return [entry.split() for entry in table.replace("\n", ";").split(";") if entry.strip()]


def _with_e(stem: str) -> str:
    """stem + em; k and g soften: rokiem, biologiem, jabłkiem."""
    return stem + ("iem" if stem[-1] in "kg" else "em")


def decline(kind: str, parts: list[str]) -> Noun:
    """All forms of a noun of class m1, m2, m3, ma, f, fc or n. Raises ValueError for another class."""
    if kind in ("m1", "m2", "m3"):
        nominative, genitive, dative, locative, plural, plural_genitive = parts
        stem = dative.removesuffix("owi")
        accusative = nominative if kind == "m3" else genitive
        singular = (nominative, genitive, dative, accusative, _with_e(stem), locative)
    elif kind in ("f", "ma"):
        nominative, genitive, dative, plural, plural_genitive = parts
        stem = nominative[:-1]
        singular = (nominative, genitive, dative, stem + "ę", stem + "ą", dative)
    elif kind == "fc":
        nominative, genitive, plural, plural_genitive = parts
        # noc-y: nocą, sol-i: solą, but siec-i: siecią
        stem = genitive[:-1] if genitive.endswith(("y", "li")) else genitive
        singular = (nominative, genitive, genitive, nominative, stem + "ą", genitive)
    elif kind == "n":
        nominative, genitive, dative, locative, plural, plural_genitive = parts
        stem = plural[:-1]
        singular = (nominative, genitive, dative, nominative, _with_e(dative[:-1]), locative)
    else:
        raise ValueError(f"noun class is {kind!r}, known are m1, m2, m3, ma, f, fc, n")
    virile = kind in ("m1", "ma")
    plural_accusative = plural_genitive if virile else plural
    plurals = (plural, plural_genitive, stem + "om", plural_accusative, stem + "ami", stem + "ach")
    gender = {"ma": "m1", "fc": "f"}.get(kind, kind)
    return Noun(singular, plurals, gender, "virile" if virile else "other")


def decline_adjective(nominative: str, virile: str) -> dict[str, Forms]:
    """Forms of an adjective by gender: m1, m2, m3, f, n (singular), virile and other (plural)."""
    stem = nominative[:-1]
    if nominative.endswith(("ki", "gi")):  # wysoki: wysokiego, wysoka, wysokie
        soft, feminine = stem + "i", stem
        high = stem + "i"
    elif nominative.endswith("i"):  # tani: taniego, tania, tanie
        soft, feminine = stem + "i", stem + "i"
        high = stem + "i"
    else:  # nowy: nowego, nowa, nowe
        soft, feminine = stem, stem
        high = stem + "y"
    his, to_him, by_him = soft + "ego", soft + "emu", high + "m"
    her, by_her, neuter = soft + "ej", feminine + "ą", soft + "e"
    animate = (nominative, his, to_him, his, by_him, by_him)
    theirs, by_them = high + "ch", high + "mi"
    return {
        "m1": animate,
        "m2": animate,
        "m3": (nominative, his, to_him, nominative, by_him, by_him),
        "f": (feminine + "a", her, her, by_her, by_her, her),
        "n": (neuter, his, to_him, neuter, by_him, by_him),
        "virile": (virile, theirs, by_him, theirs, by_them, theirs),
        "other": (neuter, theirs, by_him, neuter, by_them, theirs),
    }


def _past(infinitive: str) -> tuple[str, str, str, str, str]:
    """Past tense: masculine, feminine, neuter, virile plural, other plural."""
    if infinitive.endswith("eć"):  # widzieć: widział, widzieli
        stem, many = infinitive[:-2] + "a", infinitive[:-1] + "li"
    elif infinitive.endswith("ąć"):  # zacząć: zaczął, zaczęła
        root = infinitive[:-2]
        return root + "ął", root + "ęła", root + "ęło", root + "ęli", root + "ęły"
    else:
        stem, many = infinitive[:-1], infinitive[:-1] + "li"
    return stem + "ł", stem + "ła", stem + "ło", many, stem + "ły"


def conjugate(parts: list[str]) -> Verb:
    """A verb from infinitive, 3rd singular, 3rd plural and, if irregular, five past forms; @ stands for się."""
    reflexive = " się" if parts[0].endswith("@") else ""
    words = [part.removesuffix("@") for part in parts]
    past = tuple(words[3:]) or _past(words[0])
    genders = ("m", "f", "n", "virile", "other")
    by_gender = {gender: form + reflexive for gender, form in zip(genders, past, strict=True)}
    by_gender |= dict.fromkeys(("m1", "m2", "m3"), by_gender["m"])
    return Verb(words[0] + reflexive, words[1] + reflexive, words[2] + reflexive, by_gender)


def plural_form(number: int) -> int:
    """A noun's form after a numeral: 0 singular (1), 1 nominative plural (2-4), 2 genitive plural (5, 12, 25)."""
    if number == 1:
        return 0
    if number % 10 in (2, 3, 4) and number % 100 not in (12, 13, 14):
        return 1
    return 2


_VOWELS = frozenset("aeiouyąęó")


def with_z(phrase: str) -> str:
    """The preposition z, or ze before a cluster that z could not be said with: ze szkołą, ze wsi, z domem."""
    first, second = phrase[0].lower(), phrase[1].lower()
    if first in "sśzźż" and not (first + second == "sz" and phrase[2].lower() in _VOWELS) and second not in _VOWELS:
        return "ze " + phrase
    if first == "w" and second in "sz":
        return "ze " + phrase
    return "z " + phrase


def with_w(phrase: str) -> str:
    """The preposition w, or we before w or f with another consonant: we wsi, we Wrocławiu, w domu."""
    first, second = phrase[0].lower(), phrase[1].lower()
    return ("we " if first in "wf" and second not in _VOWELS else "w ") + phrase
