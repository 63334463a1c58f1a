"""Text in any language from a pack of data, languages/*.grammar.yaml: tables of words with their forms, sentences with slots.

A slot is {table}, {table.form} or {table>noun.form}:
  {thing.sg}           a word of the table thing in the form sg; thing, thing2, thing3 are different words of one table
  {adjective>thing.a}  a word that agrees: its form is the class of the sentence's {thing}, a dot, and a
  {number} {day} {year}  numbers
What stands in [brackets] is left out by chance. Tables named in `cast` give a document a few words that it returns to.
An entry `labelled` may give labelled.py what its forms are worded with.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import yaml

_FOLDER = Path(__file__).parent / "languages"
_SLOT = re.compile(r"\{(\w+?)(\d?)(?:>(\w+))?(?:\.(\w+))?\}")
_OPTIONAL = re.compile(r"\[([^\[\]]*)\]")
_NUMBERS: dict[str, Callable[[Random], int]] = {
    "number": lambda rng: 2 + int(rng.random() ** 2 * 98),
    "day": lambda rng: rng.randint(1, 28),
    "year": lambda rng: rng.randint(1410, 2024),
}
_FIELDS = {"language", "forms", "regular", "endings", "cast", "tables", "topics", "sentences", "questions", "titles"}
# What well-formed documents of many forms are worded with: templates, but for the asides, which are sentences as they are.
_LABELLED_FIELDS = {"asides", "item", "columns", "row", "see", "entry", "notes", "share"}
_OPTIONAL_SHARE = 0.4


@dataclass(frozen=True)
class Word:
    """One word: its class, which what agrees with it goes by, and its forms by name."""

    kind: str
    forms: Mapping[str, str]


@dataclass(frozen=True)
class Grammar:
    """A pack, read and checked.

    Attributes:
        cast: Tables whose words a document keeps, and how many it keeps.
        topics: For each topic its tables; common tables are in all of them.
        sentences, questions, titles: With slots; earlier ones are likelier.
        asides: Sentences for labelled documents that no template makes.
        wording: Templates of labelled documents by name; empty where the pack has none.
    """

    cast: Mapping[str, int]
    topics: Mapping[str, Mapping[str, tuple[Word, ...]]]
    sentences: tuple[str, ...]
    questions: tuple[str, ...]
    titles: tuple[str, ...]
    asides: tuple[str, ...]
    wording: Mapping[str, str]


class Document:
    """One document: its cast and its sentences.

    Args:
        rng: Source of every choice.
        grammar: The pack.
        topic: One of the pack's.
    """

    def __init__(self, rng: Random, grammar: Grammar, topic: str) -> None:
        self._rng, self._grammar = rng, grammar
        self._tables = dict(grammar.topics[topic])
        for table, size in grammar.cast.items():
            left = list(self._tables[table])
            picked = [left.pop(left.index(self._pick(left))) for _ in range(min(size, len(left)))]
            self._tables[table] = tuple(picked)

    def _pick(self, items: Any) -> Any:
        """One item; earlier ones are likelier (density falls as 1 / sqrt of the position)."""
        return items[int(self._rng.random() ** 2 * len(items))]

    def fill(self, template: str) -> str:
        """A template with its slots filled from the document's tables, beginning with a capital letter."""
        chosen = _OPTIONAL.sub(lambda part: part[1] if self._rng.random() < _OPTIONAL_SHARE else "", template)
        words: dict[str, Word] = {}

        def word(table: str, number: str) -> Word:
            key = table + number
            if key not in words:
                taken = {id(other) for name, other in words.items() if name.rstrip("0123456789") == table}
                free = [one for one in self._tables[table] if id(one) not in taken] or self._tables[table]
                words[key] = self._rng.choice(free) if table in self._grammar.cast else self._pick(free)
            return words[key]

        def slot(match: re.Match[str]) -> str:
            table, number, noun, form = match.groups()
            if table in _NUMBERS:
                return str(_NUMBERS[table](self._rng))
            if noun is None:
                return word(table, number).forms[form or "is"]
            base = noun.rstrip("0123456789")
            return word(table, number).forms[f"{word(base, noun[len(base) :]).kind}.{form}"]

        text = _SLOT.sub(slot, chosen)
        return text[0].upper() + text[1:]

    def sentence(self) -> str:
        """One sentence with capital letter and full stop."""
        return self.fill(self._pick(self._grammar.sentences))

    def question(self) -> str:
        """A question with its mark."""
        return self.fill(self._pick(self._grammar.questions))

    def title(self) -> str:
        """A heading."""
        return self.fill(self._pick(self._grammar.titles))

    def text(self) -> str:
        """Title and paragraphs, separated by blank lines."""
        parts = [self.title()]
        for _ in range(2 + int(self._rng.random() * 6)):
            kinds = [
                self.question if self._rng.random() < 0.05 else self.sentence for _ in range(self._rng.randint(2, 6))
            ]
            parts.append(" ".join(make() for make in kinds))
        return "\n\n".join(parts)


def pack_name(language: str) -> str:
    """What documents of a pack are named and drawn by: its name, also where its path was given."""
    return Path(language).stem.removesuffix(".grammar")


@cache
def load_grammar(name: str) -> Grammar:
    """Read languages/NAME.grammar.yaml, or any path that ends in .yaml.

    Raises:
        ValueError: No such pack, or one with an entry, a table, a word or a slot that does not fit; it is named.
    """
    path = Path(name) if name.endswith(".yaml") else _FOLDER / f"{name}.grammar.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = ", ".join(["pl", *sorted(file.name.split(".")[0] for file in _FOLDER.glob("*.grammar.yaml"))])
        raise ValueError(
            f"--language {name}: no such grammar; known are {known}, or the path of a .yaml file"
        ) from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or set(content) - {"labelled"} != _FIELDS:
        differing = _FIELDS.symmetric_difference(content if isinstance(content, dict) else ()) - {"labelled"}
        raise ValueError(
            f"{path} needs the entries {', '.join(sorted(_FIELDS))}; differing: {', '.join(sorted(differing))}"
        )
    return _grammar(content, path)


def _grammar(content: Mapping[str, Any], path: Path) -> Grammar:
    common = _read_tables(content["tables"], content, path)
    topics = {name: {**common, **_read_tables(own, content, path)} for name, own in content["topics"].items()}
    templates = {part: tuple(content[part]) for part in ("sentences", "questions", "titles")}
    wording = dict(content.get("labelled", {}))
    if wording and set(wording) != _LABELLED_FIELDS:
        differing = ", ".join(sorted(_LABELLED_FIELDS.symmetric_difference(wording)))
        raise ValueError(f"{path}: labelled needs {', '.join(sorted(_LABELLED_FIELDS))}; differing: {differing}")
    asides = tuple(wording.pop("asides", ()))
    grammar = Grammar(content["cast"], topics, **templates, asides=asides, wording=wording)
    for topic, tables in topics.items():
        for table in grammar.cast:
            if table not in tables:
                raise ValueError(f"{path}: topic {topic} has no table {table!r}, which is part of the cast")
        for template in (one for part in (*templates.values(), wording.values()) for one in part):
            for problem in _problems(template, tables):
                raise ValueError(f"{path}: topic {topic}, {template!r}: {problem}")
    return grammar


def _read_tables(tables: Mapping[str, str], pack: Mapping[str, Any], path: Path) -> dict[str, tuple[Word, ...]]:
    return {
        name: tuple(_word(line.strip(), name, pack, path) for line in lines.split("\n") if line.strip())
        for name, lines in tables.items()
    }


def _word(line: str, table: str, pack: Mapping[str, Any], path: Path) -> Word:
    """A line is [CLASS:] FORM, FORM, ... in the order of `forms`, the rest is regular; CLASS: STEM, if it has endings."""
    kind, _, rest = line.rpartition(":")
    given = [one.strip() for one in rest.split(",")]
    names = pack["forms"].get(table, ["is"])
    if len(given) > len(names):
        raise ValueError(
            f"{path}: {table}: {line!r} has {len(given)} forms, needs at most {len(names)}: {', '.join(names)}"
        )
    endings = pack["endings"].get(table, {}).get(kind.strip())
    forms = (
        {form: given[0] + ending for form, ending in endings.items()}
        if endings
        else dict(zip(names, given, strict=False))
    )
    for form, pattern in pack["regular"].get(table, {}).items():
        forms.setdefault(form, pattern.format(**forms))
    if missing := [name for name in names if not forms.get(name)]:
        raise ValueError(f"{path}: {table}: {line!r} has no form {missing[0]!r}")
    return Word(kind.strip(), forms)


def _problems(template: str, tables: Mapping[str, tuple[Word, ...]]) -> Iterator[str]:
    """What in a template cannot be filled from the tables."""
    if "{" in _SLOT.sub("", template) or "[" in _OPTIONAL.sub("", template):
        yield "a bracket that does not close, or a slot that is none"
    for table, _, noun, form in (match.groups() for match in _SLOT.finditer(template)):
        if table in _NUMBERS:
            continue
        nouns = tables.get(noun.rstrip("0123456789"), ()) if noun else ()
        if table not in tables or (noun and not nouns):
            yield f"no table {(noun if table in tables else table)!r}"
            return
        wanted = {f"{one.kind}.{form}" for one in nouns} if noun else {form or "is"}
        for word in tables[table]:
            if lacking := wanted - set(word.forms):
                yield f"{table} {next(iter(word.forms.values()))!r} has no form {min(lacking)!r}"
