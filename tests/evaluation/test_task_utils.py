"""What task files call: judging hostile answers, scores against scikit-learn, EQ-Bench's formula, unfit data sets."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from random import Random
from types import ModuleType

import pytest
import yaml
from sklearn.metrics import f1_score

from megatron_bielik.evaluation.polish_tasks import TASK_FOLDER

ABOUT = {"dataset": "x/y", "folder": "set", "columns": ["text"], "splits": {"test": "test"}}


def write(folder: Path, rows: list[dict[str, object]], split: str = "test") -> str:
    (folder / "set").mkdir(exist_ok=True)
    (folder / "set" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def test_f1_is_scikit_learns(utils: ModuleType) -> None:
    rng = Random(1)
    for classes in (2, 5):
        pairs = [(rng.randrange(classes), rng.randrange(-1, classes)) for _ in range(200)]
        gold, given = zip(*pairs, strict=True)
        labels = sorted(set(gold))
        wanted = f1_score(gold, given, labels=labels, average="macro", zero_division=0)
        assert utils.f1_macro(pairs) == pytest.approx(wanted)
        if classes == 2:
            assert utils.f1(pairs) == pytest.approx(f1_score(gold, given, labels=[1], average="macro", zero_division=0))


def test_a_model_that_always_says_yes(utils: ModuleType) -> None:
    pairs = [utils.yes_by_letter({"gold": gold}, ["B"])["f1"] for gold in (0, 0, 0, 1)]
    assert utils.f1(pairs) == pytest.approx(2 * 0.25 / 1.25)  # precision 1/4, recall 1
    assert utils.f1([(0, 0), (0, 0)]) == 0.0


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("A", "A"), (" B. tak", "B"), ("Odpowiedź: (A)", "A"), ("AB", None), ("", None), ("Ala ma kota", None),
        ("a", None), ("nie B, lecz A", "B"), ("\n\n\nB", "B"), ("ŻB", None), ("B" * 50, None), ("C", None), ("𝐁", None),
    ],
)  # fmt: skip
def test_letters_of_hostile_answers(utils: ModuleType, answer: str, letter: str | None) -> None:
    from lm_eval.filters.extraction import RegexFilter

    task = (TASK_FOLDER / "dyk_gen.yaml").read_text()
    pattern = re.search(r"regex_pattern: '(.+)'", task)
    assert pattern is not None
    found = RegexFilter(pattern[1]).apply([[answer]], [{}])[0][0]
    assert utils.by_letter({"gold": 1}, [found])["f1_macro"] == (1, -1 if letter is None else "AB".index(letter))


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        ("Warszawa", ["Warszawa"], True), ("warszawa.", ["Warszawa"], True), ("Warszawie", ["Warszawa"], True),
        ("Kraków", ["Warszawa"], False), ("w 1410 roku", ["1410"], True), ("1411", ["1410"], False),
        ("3,50 zł", ["3.5"], True), ("trzy", ["3"], False), ("", ["Chopin"], False),
        ("Chopin", ["Fryderyk Chopin", "Chopin"], True), ("٣", ["3"], True),
    ],
)  # fmt: skip
def test_short_answers(utils: ModuleType, answer: str, expected: list[str], right: bool) -> None:
    assert utils.accepted(answer, expected) is right
    assert utils.short_answer({"answers": str(expected)}, [answer])["accepted"] == right


def test_answers_in_every_form(utils: ModuleType) -> None:
    assert utils.answers_of({"answers": "['4', 'cztery']"}) == ["4", "cztery"]
    assert utils.answers_of({"answers": {"text": ["w Toruniu"], "answer_start": [3]}}) == ["w Toruniu"]
    assert utils.answers_of({"answers": "Wisła"}) == ["Wisła"]
    assert utils.first_answer({"answers": ["a", "b"]}) == "a"


def test_words_that_stand_in_an_answer(utils: ModuleType) -> None:
    doc = {"answers": ["żur", "żurek"]}
    assert utils.has_answer(doc, ["To jest ŻUREK, oczywiście."])["acc"] == 1
    assert utils.has_answer(doc, ["żurawina"])["acc"] == 0
    assert utils.has_answer({"answers": ["a.b"]}, ["axb"])["acc"] == 0


def test_eq_bench_is_its_formula(utils: ModuleType) -> None:
    reference = {"emotion1": "Wstyd", "emotion2": "Duma", "emotion3": "Ulga", "emotion4": "Lęk"}
    scores = {"emotion1_score": 8, "emotion2_score": 0, "emotion3_score": 2, "emotion4_score": "5"}
    doc = {"reference_answer_fullscale": str(reference | scores)}
    assert utils.eq_bench(doc, ["Wstyd: 8\nDuma: 0\nUlga: 2\nLęk: 5"]) == {"eq_bench": 100.0, "parseable": 1.0}
    scaled = 6.5 / (1 + math.exp(-1.2 * (2 - 4)))  # of a difference of 2; that of 7 counts as it is
    given = "wstyd: 6, duma: 7, ulga: 2, lęk: 5"
    assert utils.eq_bench(doc, [given])["eq_bench"] == pytest.approx(10 * (10 - 0.7477 * (scaled + 7)))
    for bad in ("", "Wstyd: 8", "Wstyd: osiem\nDuma: 0\nUlga: 2\nLęk: 5", "Radość: 1\nDuma: 0\nUlga: 2\nLęk: 5"):
        assert utils.eq_bench(doc, [bad]) == {"eq_bench": 0.0, "parseable": 0.0}


def test_data_sets_that_do_not_fit_are_named_in_one_line(utils: ModuleType, tmp_path: Path) -> None:
    cases = [
        (lambda: str(tmp_path / "none"), {}, "is no folder"),
        (lambda: write(tmp_path, [{"other": 1}]), {}, "no column 'text'; there are other"),
        (
            lambda: write(tmp_path, [{"text": "a", "label": 7}]),
            {"gold": "label", "values": [0, 1]},
            "label is 7, needs one of 0, 1",
        ),
        (lambda: write(tmp_path, [{"text": "a", "ok": False}]), {"where": {"ok": True}}, "no rows"),
    ]
    for make, more, message in cases:
        with pytest.raises(ValueError, match=re.escape(message)) as error:
            utils.load(**ABOUT, **more, data=make())
        assert "\n" not in str(error.value)
    (tmp_path / "set" / "test.jsonl").write_text('{"text": "a"}\n{"te')  # cut off
    with pytest.raises(ValueError, match="cannot be read"):
        utils.load(**ABOUT, data=str(tmp_path))
    (tmp_path / "set" / "test.jsonl").unlink()
    write(tmp_path, [{"text": "a"}], "train")
    with pytest.raises(ValueError, match=r"no test\.jsonl"):
        utils.load(**ABOUT, data=str(tmp_path))


def test_values_of_other_types_and_filters(utils: ModuleType, tmp_path: Path) -> None:
    rows = [{"text": "a", "label": "1", "ok": True}, {"text": "b", "label": "0", "ok": False}]
    found = utils.load(**ABOUT, gold="label", values=[0, 1], where={"ok": True}, data=write(tmp_path, rows))
    assert found["test"]["gold"] == [1]


def test_no_task_file_calls_anything_else() -> None:
    for path in TASK_FOLDER.glob("*.yaml"):
        for name in re.findall(r"!function (\S+)", path.read_text()):
            assert name.startswith("utils."), path
        assert "unsafe" not in path.read_text()
        yaml.compose(path.read_text())
