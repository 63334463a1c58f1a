"""The synthetic corpus: Polish forms against paradigms written by hand, agreement in sentences, determinism, files."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from random import Random

import pytest
import zstandard

from megatron_bielik.corpus import polish_lexicon as lexicon
from megatron_bielik.corpus.inflection import (
    A,
    G,
    N,
    conjugate,
    decline,
    decline_adjective,
    plural_form,
    with_w,
    with_z,
)
from megatron_bielik.corpus.polish_grammar import Document
from megatron_bielik.corpus.synthetic import generate_corpus, generate_document, write_corpus

PARADIGMS = [  # class, principal parts, singular, plural: from a grammar book, not from the code
    ("f", "książka książki książce książki książek", "książka książki książce książkę książką książce",
     "książki książek książkom książki książkami książkach"),
    ("f", "babcia babci babci babcie babć", "babcia babci babci babcię babcią babci",
     "babcie babć babciom babcie babciami babciach"),
    ("fc", "sól soli sole soli", "sól soli soli sól solą soli", "sole soli solom sole solami solach"),
    ("fc", "sieć sieci sieci sieci", "sieć sieci sieci sieć siecią sieci", "sieci sieci sieciom sieci sieciami sieciach"),
    ("fc", "podróż podróży podróże podróży", "podróż podróży podróży podróż podróżą podróży",
     "podróże podróży podróżom podróże podróżami podróżach"),
    ("m3", "zamek zamku zamkowi zamku zamki zamków", "zamek zamku zamkowi zamek zamkiem zamku",
     "zamki zamków zamkom zamki zamkami zamkach"),
    ("m2", "wilk wilka wilkowi wilku wilki wilków", "wilk wilka wilkowi wilka wilkiem wilku",
     "wilki wilków wilkom wilki wilkami wilkach"),
    ("m1", "lekarz lekarza lekarzowi lekarzu lekarze lekarzy", "lekarz lekarza lekarzowi lekarza lekarzem lekarzu",
     "lekarze lekarzy lekarzom lekarzy lekarzami lekarzach"),
    ("ma", "turysta turysty turyście turyści turystów", "turysta turysty turyście turystę turystą turyście",
     "turyści turystów turystom turystów turystami turystach"),
    ("n", "jabłko jabłka jabłku jabłku jabłka jabłek", "jabłko jabłka jabłku jabłko jabłkiem jabłku",
     "jabłka jabłek jabłkom jabłka jabłkami jabłkach"),
    ("n", "zwierzę zwierzęcia zwierzęciu zwierzęciu zwierzęta zwierząt",
     "zwierzę zwierzęcia zwierzęciu zwierzę zwierzęciem zwierzęciu",
     "zwierzęta zwierząt zwierzętom zwierzęta zwierzętami zwierzętach"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "parts", "singular", "plural"), PARADIGMS)
def test_nouns_decline_as_in_a_grammar(kind: str, parts: str, singular: str, plural: str) -> None:
    noun = decline(kind, parts.split())
    assert " ".join(noun.sg) == singular
    assert " ".join(noun.pl) == plural


def test_adjectives_agree_in_gender_and_case() -> None:
    high = decline_adjective("wysoki", "wysocy")
    assert " ".join(high["f"]) == "wysoka wysokiej wysokiej wysoką wysoką wysokiej"
    assert " ".join(high["m1"]) == "wysoki wysokiego wysokiemu wysokiego wysokim wysokim"
    assert " ".join(high["virile"]) == "wysocy wysokich wysokim wysokich wysokimi wysokich"
    cheap = decline_adjective("tani", "tani")
    assert " ".join(cheap["n"]) == "tanie taniego taniemu tanie tanim tanim"
    assert " ".join(cheap["f"]) == "tania taniej taniej tanią tanią taniej"
    new = decline_adjective("nowy", "nowi")
    assert " ".join(new["m3"]) == "nowy nowego nowemu nowy nowym nowym"
    assert " ".join(new["other"]) == "nowe nowych nowym nowe nowymi nowych"


@pytest.mark.parametrize(
    ("parts", "past"),
    [
        ("widzieć widzi widzą", "widział widziała widziało widzieli widziały"),
        ("przyjąć przyjmie przyjmą", "przyjął przyjęła przyjęło przyjęli przyjęły"),
        ("kupić kupi kupią", "kupił kupiła kupiło kupili kupiły"),
        ("odkryć odkryje odkryją", "odkrył odkryła odkryło odkryli odkryły"),
        ("zajmować@ zajmuje@ zajmują@", "zajmował się,zajmowała się,zajmowało się,zajmowali się,zajmowały się"),
    ],
)
def test_verbs_conjugate(parts: str, past: str) -> None:
    verb = conjugate(parts.split())
    forms = past.split(",") if "," in past else past.split()
    assert [verb.past[gender] for gender in ("m", "f", "n", "virile", "other")] == forms


def test_numerals_and_prepositions() -> None:
    assert [plural_form(n) for n in (1, 2, 4, 5, 11, 12, 14, 21, 22, 25, 112, 124)] == [
        0, 1, 1, 2, 2, 2, 2, 2, 1, 2, 2, 1]  # fmt: skip
    assert with_z("szkołą") == "ze szkołą"
    assert with_z("wsi") == "ze wsi"
    assert with_z("szerokim") == "z szerokim"
    assert with_z("siecią") == "z siecią"
    assert with_w("Wrocławiu") == "we Wrocławiu"
    assert with_w("wodzie") == "w wodzie"


def test_the_lexicon_is_complete() -> None:
    """Every entry has the number of parts of its class, and every form is a Polish word."""
    word = re.compile(r"[a-ząćęłńóśźż ]+")
    for topic in lexicon.TOPICS:
        document = Document(Random(0), topic)
        words = document.words
        for noun in words.people + words.things + words.inside + words.upon:
            for form in noun.sg + noun.pl:
                assert word.fullmatch(form), (topic, form)
        for verb in words.imperfective + words.perfective:
            for form in (verb.infinitive, verb.present_sg, verb.present_pl, *verb.past.values()):
                assert word.fullmatch(form), (topic, form)


def test_negation_turns_the_accusative_into_the_genitive() -> None:
    document = Document(Random(3), "cooking")
    accusative_only = {n.sg[A] for n in document.words.things if n.sg_gender == "f"} - {
        form for n in document.words.things for form in (n.sg[G], n.sg[N], n.pl[G], n.pl[N])
    }
    direct = {verb.present_sg for verb in document.words.imperfective}
    negated = 0
    for _ in range(4000):
        words = document.predicate("f", False).split()
        if words[0] == "nie" and words[1] in direct:
            negated += 1
            assert not accusative_only & set(words), words
    assert negated > 20


def test_documents_depend_on_seed_and_index_only() -> None:
    assert generate_document(5, 7) == generate_document(5, 7)
    assert generate_document(5, 7)["text"] != generate_document(6, 7)["text"]
    lines = list(generate_corpus(1, 200_000))
    assert 200_000 <= sum(len(line.encode()) + 1 for line in lines) < 230_000
    records = [json.loads(line) for line in lines]
    assert len({record["id"] for record in records}) == len(records)
    assert {record["topic"] for record in records} == set(lexicon.TOPICS)
    text = " ".join(record["text"] for record in records)
    assert len(set(re.findall(r"\w+", text.lower()))) > 2000
    assert set("ąćęłńóśźż") <= set(text)
    for record in records:
        _title, *paragraphs = record["text"].split("\n\n")
        assert len(paragraphs) >= 2
        assert "  " not in record["text"]
        for paragraph in paragraphs:
            assert paragraph.endswith((".", "?"))
            assert paragraph[0].isupper() or paragraph[0].isdigit()


def test_files_have_the_same_content_whatever_the_compression(tmp_path: Path) -> None:
    names = [tmp_path / f"c.jsonl{suffix}" for suffix in ("", ".gz", ".zst")]
    seen: list[int] = []
    counts = {write_corpus(name, 50_000, 2, seen.append) for name in names}
    assert len(counts) == 1
    plain = names[0].read_bytes()
    assert sum(seen) == 3 * len(plain)
    assert gzip.decompress(names[1].read_bytes()) == plain
    assert zstandard.open(names[2]).read() == plain
    again = tmp_path / "again.jsonl.gz"
    write_corpus(again, 50_000, 2)
    assert again.read_bytes() == names[1].read_bytes()


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def fail(_: int) -> None:
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        write_corpus(tmp_path / "c.jsonl", 100_000, 0, fail)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="needs a name ending in"):
        write_corpus(tmp_path / "c.txt", 10, 0)
