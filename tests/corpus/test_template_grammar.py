"""Packs of a language as data: filled slots, agreement, determinism, and packs that do not fit."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from megatron_bielik.corpus import template_grammar
from megatron_bielik.corpus.synthetic import generate_corpus, generate_document
from megatron_bielik.corpus.template_grammar import Document, load_grammar

ROOT = Path(__file__).parents[2]
POLISH = "365f0a735c2020de257eb24d16f39ccc2a452dff7858865fca245f1d8bf4de5e"  # of the generator before it knew packs
PACK: dict[str, Any] = {
    "language": "xx",
    "forms": {"noun": ["nom", "acc"], "adjective": ["m.nom", "m.acc", "f.nom", "f.acc"]},
    "regular": {"noun": {"acc": "{nom}"}},
    "endings": {"adjective": {"hard": {"m.nom": "ý", "m.acc": "ého", "f.nom": "á", "f.acc": "ou"}}},
    "cast": {"noun": 2},
    "tables": {"adjective": "hard: mlad\nhard: star\n", "when": "včera\ndnes\n"},
    "topics": {"a": {"noun": "m: pes, psa\nf: žena, ženu\nm: hrad\n"}},
    "sentences": ["{when} {adjective>noun.nom} {noun.nom} vidí {adjective2>noun2.acc} {noun2.acc}[ {number}×]."],
    "questions": ["{noun.nom}?"],
    "titles": ["{adjective>noun.nom} {noun.nom}"],
}


def write(folder: Path, **changes: Any) -> str:
    path = folder / "xx.yaml"
    path.write_text(yaml.safe_dump({**PACK, **changes}, allow_unicode=True))
    load_grammar.cache_clear()
    return str(path)


def test_polish_is_what_it_was() -> None:
    text = "\n".join(generate_corpus(seed=5, size=40_000))
    assert hashlib.sha256(text.encode()).hexdigest() == POLISH


def test_adjectives_agree_with_their_nouns(tmp_path: Path) -> None:
    grammar = load_grammar(write(tmp_path))
    seen = set()
    for index in range(200):
        sentence = Document(Random(index), grammar, "a").sentence()
        match = re.fullmatch(r"(?:Včera|Dnes) (\w+) (\w+) vidí (\w+) (\w+)(?: \d+×)?\.", sentence)
        assert match is not None, sentence
        first, noun, second, other = match.groups()
        assert first.endswith("á" if noun == "žena" else "ý")
        assert second.endswith("ou" if other == "ženu" else "ého")
        assert (noun, other) not in {("pes", "psa"), ("žena", "ženu")}  # two nouns of a sentence are two
        seen |= {noun, other}
    assert seen == {"pes", "psa", "žena", "ženu", "hrad"}


def test_english_is_filled_and_deterministic() -> None:
    documents = [generate_document(3, index, "en") for index in range(300)]
    assert documents == [generate_document(3, index, "en") for index in range(300)]
    assert generate_document(4, 0, "en")["text"] != documents[0]["text"]
    assert {one["topic"] for one in documents} == {generate_document(0, index)["topic"] for index in range(200)}
    text = "\n".join(one["text"] for one in documents)
    assert not re.search(r"[{}\[\]>]|  | [,.?]", text)
    assert all(line[0].isupper() or line[0].isdigit() for line in text.split("\n") if line)
    assert not re.search(r"\b[Aa] [aeio]|\b[Aa]n [^aeiouh]", text)  # a cook, an onion, an honest user
    assert len(set(documents[0]["text"].split())) > 20


def test_documents_return_to_their_cast(tmp_path: Path) -> None:
    for index in range(20):
        things = {
            noun for noun in ("castle", "crown", "treaty", "sword", "throne", "shield") if noun in _history(index)
        }
        assert len(things) < 6


def _history(index: int) -> str:
    return Document(Random(index), load_grammar("en"), "history").text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sentences": ["{noun.gen}"]}, "has no form 'gen'"),
        ({"sentences": ["{verb.past}"]}, "no table 'verb'"),
        ({"sentences": ["{noun.nom"]}, "a bracket that does not close"),
        ({"sentences": ["{adjective>noun.gen}"]}, "has no form 'f.gen'"),
        ({"topics": {"a": {}}}, "topic a has no table 'noun'"),
        ({"topics": {"a": {"noun": "m: a, b, c\n"}}}, "has 3 forms, needs at most 2: nom, acc"),
        ({"endings": {}}, "has no form 'm.acc'"),
    ],
)  # fmt: skip
def test_packs_that_do_not_fit_are_named_in_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        load_grammar(write(tmp_path, **changes))
    assert "xx.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_packs_with_other_entries(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("language: xx\n")
    with pytest.raises(ValueError, match="differing: cast"):
        load_grammar(str(path))
    path.write_text("a: [")
    load_grammar.cache_clear()
    with pytest.raises(ValueError, match="is no YAML"):
        load_grammar(str(path))
    assert template_grammar._problems("{noun.nom}", {}) is not None


def test_the_command(tmp_path: Path) -> None:
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, str(ROOT / "tools/generate_corpus.py"), "--megabytes", "0.05", *map(str, arguments)]
        return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)

    assert run("--output", tmp_path / "en.jsonl", "--language", "en").returncode == 0
    rows = [json.loads(line) for line in (tmp_path / "en.jsonl").read_text().splitlines()]
    assert rows[0] == generate_document(0, 0, "en")
    assert run("--output", tmp_path / "xx.jsonl", "--language", write(tmp_path)).returncode == 0
    refused = run("--output", tmp_path / "yy.jsonl", "--language", "yy")
    assert refused.returncode == 1
    assert (
        refused.stderr == "error: --language yy: no such grammar; known are pl, cs, en, or the path of a .yaml file\n"
    )
    assert not (tmp_path / "yy.jsonl").exists()
