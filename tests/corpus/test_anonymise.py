"""Anonymisation: the test set's bars, look-alikes that stay, substitutes that are valid, equal across processes and other."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_bielik.corpus import identifiers as ids
from megatron_bielik.corpus.anonymise import KINDS, Anonymiser
from megatron_bielik.corpus.personal_data_test_set import Example, examples, look_alikes, score
from megatron_bielik.corpus.substitutes import Substitutes, normalised
from megatron_bielik.corpus.synthetic import generate_document

TOOL = Path(__file__).parents[2] / "tools" / "anonymise.py"
ANONYMISER = Anonymiser()


@pytest.fixture(scope="module")
def test_set() -> list[Example]:
    return examples(seed=5, per_kind=300)


def test_every_kind_reaches_the_bar(test_set: list[Example]) -> None:
    scores = score(ANONYMISER, test_set)
    assert set(scores) == set(KINDS)
    for kind, figures in scores.items():
        assert figures.expected >= 300, kind
        assert figures.precision >= 0.98, (kind, figures)
        assert figures.recall >= 0.98, (kind, figures)


def test_the_score_counts_a_span_that_is_one_character_off() -> None:
    text = "Adres: jan@firma.pl."
    assert score(ANONYMISER, [Example(text, (("email", 7, 19),))])["email"].recall == 1
    assert score(ANONYMISER, [Example(text, (("email", 7, 18),))])["email"].recall == 0


def test_look_alikes_stay() -> None:
    for text in look_alikes(seed=3, count=2000):
        assert ANONYMISER.anonymise(text).text == text


def test_generated_documents_stay() -> None:
    for index in range(1000):
        text = generate_document(1, index)["text"]
        assert ANONYMISER.anonymise(text).text is text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("brak", "brak"),
        ("jan@firma.pl", "<EMAIL>"),
        ("Mieszkam przy ulicy Długiej 5, nie 7.", "Mieszkam przy <ADDRESS>, nie 7."),
        ("na ul. Mickiewicza 12/3 i pl. Wolności 1", "na <ADDRESS> i <ADDRESS>"),
        ("NIP: 123-45-63-218, PL1234563218, 123-456-32-18", "NIP: <NIP>, <NIP>, <NIP>"),
        ("1234563218 bez słowa", "1234563218 bez słowa"),
        ("REGON 12345678512347", "REGON <REGON>"),
        ("konto 61 1090 1014 0000 0712 1981 2874.", "konto <IBAN>."),
        ("konto PL61 1090 1014 0000 0712 1981 2874 BANK", "konto <IBAN> BANK"),
        ("(zob. https://a.pl/b_(c)).", "(zob. <URL>)."),
        ("tel. 600 100 200, 22/825-11-22", "tel. <PHONE>, <PHONE>"),
        ("https://a.pl/44051401359?t=600100200", "<URL>"),  # the address wins over the numbers in it
        ("seria ABA nr 300000", "seria <IDENTITY_CARD>"),
        ("Wersja 83.1.2.30, serwer 83.1.2.30", "Wersja 83.1.2.30, serwer <IPV4>"),
        ("10.0.0.1 172.16.5.4 127.0.0.1", "10.0.0.1 172.16.5.4 127.0.0.1"),
        ("ul. Długa 5\nul. Krótka 6\n00-950 Warszawa", "<ADDRESS>\n<ADDRESS>"),
    ],
)
def test_sentences(text: str, expected: str) -> None:
    assert ANONYMISER.anonymise(text).text == expected


def test_placeholders_are_stable_and_spans_name_the_old_text(test_set: list[Example]) -> None:
    for example in test_set[:500]:
        made = ANONYMISER.anonymise(example.text)
        assert ANONYMISER.anonymise(made.text).found == {}
        assert sum(made.found.values()) == len(made.spans)
        last, rebuilt = 0, ""
        for span in made.spans:
            assert span.start >= last
            rebuilt += example.text[last : span.start] + f"<{span.kind.upper()}>"
            last = span.stop
        assert rebuilt + example.text[last:] == made.text


VALID = {
    "pesel": ids.is_pesel,
    "nip": ids.is_nip,
    "regon": ids.is_regon,
    "iban": ids.is_iban,
    "identity_card": ids.is_identity_card,
    "passport": ids.is_passport,
    "payment_card": ids.is_card,
}


def test_substitutes_are_valid_other_and_of_the_same_format(test_set: list[Example]) -> None:
    substitutes = Substitutes(seed=1)
    for example in test_set:
        for kind, start, stop in example.spans:
            old = example.text[start:stop]
            new = substitutes.make(kind, old)
            assert normalised(kind, new) != normalised(kind, old), (kind, old)
            if kind in VALID:
                assert VALID[kind](normalised(kind, new)), (kind, old, new)
            if kind in VALID or kind == "phone":
                assert re.sub("[0-9]", "9", re.sub("[A-Z]", "A", new)) == re.sub(
                    "[0-9]", "9", re.sub("[A-Z]", "A", old)
                )
            if kind in ("email", "url"):
                assert re.search(r"example\.(?:com|org|net)\b", new)


def test_what_is_substituted_is_found_again(test_set: list[Example]) -> None:
    """Numbers and addresses stay what they were; public addresses of the network go to the documentation ranges, which stay."""
    substitute, kinds = Anonymiser("substitute"), [kind for kind in KINDS if kind not in ("ipv4", "ipv6")]
    misses = 0
    for example in test_set:
        old, new = ANONYMISER.find(example.text), ANONYMISER.find(substitute.anonymise(example.text).text)
        misses += [span.kind for span in old if span.kind in kinds] != [span.kind for span in new]
    assert misses <= 0.01 * len(test_set)


def test_equal_values_get_equal_substitutes_whatever_their_spelling() -> None:
    made = Anonymiser("substitute").anonymise("tel. 600 100 200, +48 600-100-200, 0048600100200, kom. 600100200").text
    assert len({re.sub("[^0-9]", "", number)[-9:] for number in made.split(",")}) == 1
    one, other = (Anonymiser("substitute", seed=seed).anonymise("PESEL 44051401359").text for seed in (0, 1))
    assert one != other


def test_substitutes_are_the_same_in_another_process() -> None:
    text = "jan@firma.pl, PESEL 44051401359, ul. Długa 5, 00-950 Warszawa, tel. 600 100 200, https://firma.pl/a"
    call = f"a.Anonymiser('substitute', seed=4).anonymise({text!r}).text"
    code = f"from megatron_bielik.corpus import anonymise as a; print({call})"
    for salt in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": salt}
        )
        assert done.stdout.strip() == Anonymiser("substitute", seed=4).anonymise(text).text


def test_types_choose_and_wrong_options_are_told() -> None:
    text = "jan@firma.pl, tel. 600 100 200"
    assert Anonymiser(types=["phone"]).anonymise(text).text == "jan@firma.pl, tel. <PHONE>"
    assert Anonymiser(types=[]).anonymise(text).text == text
    with pytest.raises(ValueError, match="--types has mail, needs some of url, email"):
        Anonymiser(types=["mail"])
    with pytest.raises(ValueError, match="--mode is hide"):
        Anonymiser("hide")  # type: ignore[arg-type]


SIGNS = st.text(st.sampled_from("0123456789 .-/@:,()+\n\u00a0aąŻPL ul.NIP w€😀\u0301٣\ud800"), max_size=80)


@settings(max_examples=300, deadline=None)
@given(SIGNS)
def test_any_text_goes_through(text: str) -> None:
    made = ANONYMISER.anonymise(text)
    assert len(made.spans) == sum(made.found.values())
    Anonymiser("substitute").anonymise(text)


@pytest.mark.parametrize(
    "part", ["PL61 ", "ul. Aa ", "a@", "://", "www.", "1.1.1.", "A-", "501 234 567 ", "1:", "tel. 5 "]
)
def test_time_grows_with_the_text_not_its_square(part: str) -> None:
    begun = time.process_time()
    ANONYMISER.anonymise(part * 8000)
    assert time.process_time() - begun < 3


def run_tool(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(TOOL), *options], capture_output=True, text=True, timeout=60)


def test_the_tool_reads_every_format(tmp_path: Path) -> None:
    texts = ["Pisz: jan@firma.pl", "tel. 600 100 200 lub ola@firma.pl", "nic"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    pq.write_table(pa.table({"text": texts, "n": [0, 1, 2]}), tmp_path / "b.parquet")
    (tmp_path / "c.txt").write_text(texts[0])
    output = tmp_path / "out.jsonl"
    inputs = [str(tmp_path / name) for name in ("a.jsonl", "b.parquet", "c.txt")]
    done = run_tool("--input", *inputs, "--output", str(output))
    assert done.returncode == 0, done.stderr
    assert "7 documents; email 5, phone 2" in done.stdout
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["text"] for line in lines] == ["Pisz: <EMAIL>", "tel. <PHONE> lub <EMAIL>", "nic"] * 2 + [
        "Pisz: <EMAIL>"
    ]
    assert lines[1]["personal_data"] == {"phone": 1, "email": 1}
    assert lines[3]["n"] == 0  # other columns stay


def test_the_tool_skips_and_names_what_is_no_record(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "dobry"}\n{"text": 3}\n')
    done = run_tool("--input", str(tmp_path / "a.jsonl"), "--output", str(tmp_path / "out.jsonl"))
    assert done.returncode == 0
    assert "1 documents; no personal data; 1 bad records skipped" in done.stdout
    assert "line 2: no text under 'text'" in done.stderr


def test_the_tool_tells_errors_in_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "dobry"}\n')
    for options, words in (
        (["--input", str(tmp_path / "none.jsonl")], "no such file"),
        (["--input", str(tmp_path / "a.jsonl"), "--types", "mail"], "needs some of"),
        (["--input", str(tmp_path / "a.jsonl"), "--mode", "hide"], "needs placeholder or substitute"),
    ):
        done = run_tool(*options, "--output", str(tmp_path / "out.jsonl"))
        assert done.returncode == 1
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
        assert not list(tmp_path.glob("out*"))
