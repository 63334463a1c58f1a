"""Czech as data: sentences agree, features and labels work in it, and the example runs from text to shard."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest
import yaml

from megatron_bielik.corpus import corruptions
from megatron_bielik.corpus.features import FEATURE_NAMES, FeatureExtractor
from megatron_bielik.corpus.labelled import ANY_LANGUAGE, labelled_document
from megatron_bielik.corpus.language import load_language
from megatron_bielik.corpus.synthetic import generate_document
from megatron_bielik.corpus.template_grammar import Document, load_grammar
from tests.conftest import script_environment

ROOT = Path(__file__).parents[2]
LANGUAGES = ROOT / "megatron_bielik" / "corpus" / "languages"
# An adjective's endings, from a school grammar: gender, then nominative, accusative, genitive, locative singular.
HARD = {"mi": ("ý", "ý", "ého", "ém"), "f": ("á", "ou", "é", "é"), "n": ("é", "é", "ého", "ém")}
SOFT = {"mi": ("í", "í", "ího", "ím"), "f": ("í", "í", "í", "í"), "n": ("í", "í", "ího", "ím")}


def nouns() -> dict[str, str]:
    """Nominative of each thing, and its gender."""
    grammar = load_grammar("cs")
    return {word.forms["nom"]: word.kind for tables in grammar.topics.values() for word in tables["thing"]}


@pytest.mark.parametrize(("number", "case"), enumerate(["nom", "acc", "gen", "loc"]))
def test_adjectives_agree_in_gender_and_case(number: int, case: str) -> None:
    grammar = load_grammar("cs")
    found = set()
    for topic, tables in grammar.topics.items():
        soft = {word.forms["mi.nom"].removesuffix("í") for word in tables["adjective"] if word.kind == "soft"}
        for index in range(60):
            document = Document(Random(index), grammar, topic)
            adjective, noun = document.fill(f"{{adjective>thing.{case}}} {{thing.nom}}").lower().split()
            gender = nouns()[noun]
            ending = (SOFT if any(adjective.startswith(stem) for stem in soft) else HARD)[gender][number]
            assert adjective.endswith(ending), (adjective, noun)
            found.add(gender)
    assert found == {"mi", "f", "n"}


def test_verbs_agree_with_their_subject() -> None:
    grammar = load_grammar("cs")
    seen = set()
    for topic in grammar.topics:
        for index in range(80):
            text = Document(Random(index), grammar, topic).fill(
                "{name}|{verb>name.past}|{person.pl}|{verb>person.pl}|{person.nom}"
            )
            name, verb, _, plural, person = text.split("|")
            woman = name.endswith("á")  # the surnames of the pack are of those that tell
            assert verb.endswith("la" if woman else "l"), (name, verb)
            kind = next(word.kind for word in grammar.topics[topic]["person"] if word.forms["nom"] == person)
            assert plural.endswith({"ma": "li", "f": "ly"}[kind]), (person, plural)
            seen |= {woman, kind}
    assert seen == {True, False, "ma", "f"}


def test_inanimate_accusatives() -> None:
    """Masculine inanimates and neuters keep their nominative; feminines in -a take -u, those in -e take -i."""
    grammar = load_grammar("cs")
    for tables in grammar.topics.values():
        for word in tables["thing"]:
            nominative, accusative = word.forms["nom"], word.forms["acc"]
            if word.kind != "f":
                assert accusative == nominative
            elif nominative[-1] in "ae":
                assert accusative == nominative[:-1] + {"a": "u", "e": "i"}[nominative[-1]]
            else:
                assert accusative == nominative
        for word in tables["person"]:
            if word.kind == "ma":
                assert word.forms["acc"] == word.forms["gen"]


def test_documents_are_filled_and_deterministic() -> None:
    documents = [generate_document(3, index, "cs") for index in range(200)]
    assert documents == [generate_document(3, index, "cs") for index in range(200)]
    text = "\n".join(one["text"] for one in documents)
    assert not re.search(r"[{}\[\]>|]|  | [,.?]", text)
    assert all(line[0].isupper() or line[0].isdigit() for line in text.split("\n") if line)
    letters = set(load_language("cs").letters)
    assert {c for c in text.lower() if c.isalpha()} <= letters
    assert len({one["topic"] for one in documents}) == 6


@pytest.mark.parametrize("language", ["cs", "en"])
def test_feature_packs(language: str) -> None:
    pack = load_language(language)
    assert set(pack.diacritics) | set(pack.vowels) <= set(pack.letters)
    assert all(set(word) & set(pack.diacritics) for word in pack.needs_diacritics)
    texts = [labelled_document(1, index, 1 + index % 5, "all", language).text for index in range(300)]
    rows = FeatureExtractor(language)(texts)
    assert np.isfinite(rows).all()
    assert FeatureExtractor(language).version.endswith(f"-{language}")
    stop_words = rows[:, FEATURE_NAMES.index("stop_word_ratio")]
    assert np.median(stop_words) > 0.05


def test_czech_is_not_polish_to_the_features() -> None:
    """Its diacritics and stop words are known to its own pack only."""
    texts = [generate_document(2, index, "cs")["text"] for index in range(40)]
    column = FEATURE_NAMES.index("stop_word_ratio")
    assert FeatureExtractor("cs")(texts)[:, column].mean() > 1.5 * FeatureExtractor("pl")(texts)[:, column].mean()


def test_labelled_czech() -> None:
    documents = [labelled_document(0, index, 1 + index % 5, "all", "cs") for index in range(1200)]
    assert documents[7] == labelled_document(0, 7, 3, "all", "cs")
    assert documents[7].id == "labelled-cs-0-7-3"
    shares = Counter(one.label for one in documents)
    assert 0.38 < shares["HIGH"] / 1200 < 0.52
    assert {one.kind for one in documents if one.label != "HIGH"} == ANY_LANGUAGE
    assert {one.kind for one in documents if one.label == "HIGH"} == {
        "article", "essay", "guide", "dialogue", "questions", "entry"
    }  # fmt: skip
    high = "\n".join(one.text for one in documents if one.label == "HIGH")
    assert "| Název | Počet |" in high
    assert "Udostępnij" not in high
    assert not re.search(r"[ąęłśźćń]", high)
    unseen = {one.kind for i in range(300) if (one := labelled_document(0, i, 2, "unseen", "cs")).label != "HIGH"}
    assert unseen == ANY_LANGUAGE & corruptions.UNSEEN


def test_corruptions_of_other_languages_bring_no_polish_words() -> None:
    """Each of ANY_LANGUAGE leaves a text of one strange word without a Polish letter that was not there."""
    text = " ".join(["Qwx"] * 30) + ".\n\n" + " ".join(["zyv"] * 30) + "."
    for name in sorted(ANY_LANGUAGE - {"random_letters", "broken_encoding"}):
        for seed in range(20):
            spoiled = (corruptions.MEDIUM | corruptions.LOW)[name](text, Random(seed), 0.7)
            assert not re.search(r"[ąćęłńóśźż]", spoiled), name


def test_a_pack_without_wording_has_the_plain_forms() -> None:
    documents = [labelled_document(0, index, 1, "all", "en") for index in range(300)]
    assert {one.kind for one in documents if one.label == "HIGH"} == {"article", "essay", "dialogue", "questions"}
    clean = [labelled_document(0, index, 1, "all", "en") for index in range(300)]
    assert "missing_diacritics" not in {one.kind for one in clean}  # English has none to miss


def test_wording_that_does_not_fit_is_named(tmp_path: Path) -> None:
    pack = yaml.safe_load((LANGUAGES / "cs.grammar.yaml").read_text(encoding="utf-8"))
    path = tmp_path / "cs2.yaml"
    for change, message in (
        ({"see": "{nothing.nom}"}, "no table 'nothing'"),
        ({"see": None}, "labelled needs asides, columns"),
    ):
        wording = {key: value for key, value in {**pack["labelled"], **change}.items() if value is not None}
        path.write_text(yaml.safe_dump({**pack, "labelled": wording}, allow_unicode=True), encoding="utf-8")
        load_grammar.cache_clear()
        with pytest.raises(ValueError, match=message) as error:
            labelled_document(0, 0, 1, "all", str(path))
        assert "cs2.yaml" in str(error.value)
        assert "\n" not in str(error.value)


def test_the_example_runs_and_goes_on(tmp_path: Path) -> None:
    environment = script_environment(QUICK="1", XDG_CACHE_HOME=str(tmp_path / "cache"))
    output = tmp_path / "out"
    command = [str(ROOT / "examples" / "czech" / "run.sh"), str(output)]

    def run() -> str:
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        return done.stdout

    assert "shard/cs: good" in run()
    assert '-cs"' in (output / "quality.json").read_text(encoding="utf-8").replace("\\", "")  # of which features it is
    report = json.loads((output / "corpus" / "report.json").read_text(encoding="utf-8"))
    kept, read = report["steps"][-1]["out"]["documents"], report["steps"][0]["in"]["documents"]
    assert 0.5 * read < kept < read
    measured = json.loads((output / "fertility.json").read_text(encoding="utf-8"))
    fertility = {one["tokenizer"]: one["tokens_per_word"] for one in measured}
    assert fertility["czech"] < 0.6 * fertility["polish"]
    made = {file: file.stat().st_mtime_ns for file in output.rglob("*") if file.suffix in (".bin", ".jsonl", ".model")}
    run()
    assert made == {file: file.stat().st_mtime_ns for file in made}
