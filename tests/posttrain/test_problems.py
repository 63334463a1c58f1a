"""Word problems: answers against the expression and the text's own numbers, grammar against the SGJP dictionary, splits."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import pytest

from megatron_bielik.corpus.inflection import A, N
from megatron_bielik.posttrain.messages import problem_with
from megatron_bielik.posttrain.problem_words import counted, goods, happened, numeral, people, things
from megatron_bielik.posttrain.problems import (
    INSTRUCTION,
    LEVELS,
    ProblemError,
    as_conversation,
    as_pair,
    generate,
    split_of,
)
from megatron_bielik.posttrain.rewards.boxed import last_boxed
from megatron_bielik.posttrain.rewards.format import boxed_format
from megatron_bielik.posttrain.rewards.numbers import parse_number

ROOT = Path(__file__).parents[2]


def exact(expression: str) -> Fraction:
    """The value of an expression, every number taken as an exact decimal."""
    literals = re.sub(r"\d+(?:\.\d+)?", lambda match: f"Fraction({match.group()!r})", expression)
    allowed = (ast.Expression, ast.BinOp, ast.Call, ast.Name, ast.Constant, ast.operator, ast.expr_context)
    tree = ast.parse(literals, mode="eval")
    assert all(isinstance(node, allowed) for node in ast.walk(tree)), expression
    return eval(compile(tree, "expression", "eval"), {"Fraction": Fraction})  # type: ignore[no-any-return]


def written(text: str) -> Fraction:
    """A number in Polish notation, read by replacing characters only."""
    return Fraction(text.replace(" ", "").replace(",", ".").replace("−", "-"))


def question(problem: dict[str, Any]) -> str:
    return str(problem["messages"][0]["content"]).removesuffix(" " + INSTRUCTION)


@pytest.fixture(scope="module")
def problems() -> list[dict[str, Any]]:
    return list(generate(5000, seed=3))


def test_answer_is_the_value_of_the_expression(problems: list[dict[str, Any]]) -> None:
    for problem in problems:
        value = exact(problem["expression"])
        assert value > 0
        assert written(problem["answer"]) == value, problem
        parsed = parse_number(problem["answer"])
        assert parsed is not None
        assert parsed.value == value


def test_every_step_of_the_solution_is_right(problems: list[dict[str, Any]]) -> None:
    for problem in problems:
        *steps, last = problem["solution"].splitlines()
        assert last == rf"Odpowiedź: \boxed{{{problem['answer']}}}"
        assert last_boxed(problem["solution"]) == problem["answer"]
        assert boxed_format(problem["solution"], {}) == 1.0
        for step in steps:
            left, _, right = step[_start(step) :].partition(" = ")
            for polish, python in ((" : ", " / "), ("·", "*"), ("−", "-")):
                left = left.replace(polish, python)
            left = re.sub(r"(?<=\d) (?=\d{3})", "", left).replace(",", ".")
            shown = re.match(r"[\d, ]*\d(?:/\d+)?", right)
            assert shown, step
            assert exact(left) == written(shown.group()), step


def _start(step: str) -> int:
    """Where the sum of a step begins: behind the colon that follows its words."""
    match = re.search(r"[^\d\s]: (?=[\d(])|\d \w+: (?=[\d(])", step)
    assert match, step
    return match.end()


def test_numbers_of_the_expression_come_from_the_text(problems: list[dict[str, Any]]) -> None:
    in_words = {numeral(n, gender, case): n for gender in ("m3", "f", "n") for case in (N, A) for n in range(1, 200)}
    for problem in problems[:1000]:
        text = question(problem)
        known = {written(match) for match in re.findall(r"\d+(?:,\d+)?", text)}
        known |= {number for words, number in in_words.items() if re.search(rf"\b{words}\b", text)}
        used = {Fraction(match) for match in re.findall(r"\d+(?:\.\d+)?", problem["expression"])}
        # 100 of percent, 60 minutes, two legs, one more, and numerals in other cases.
        assert used - known <= {100, 60, 1, 2, 3, 4, 5, 6}, problem


# What the sentences say, read again: a pattern, and the answer from its numbers in order.
READINGS: dict[str, Callable[..., Fraction]] = {
    r"ma {n} \w+\. \w+ dała? (?:mu|jej) jeszcze {n} ": lambda a, b: a + b,
    r"Na stole leżał[aoy]? {n} \w+\. \w+ zabrała? {n} ": lambda a, b: a - b,
    r"^\w+ kupiła? {n} \w+ i {n} \w+\. Ile rzeczy": lambda a, b: a + b,
    r"zebrała? {n} \w+, a \w+ o {n} \w+ więcej\. Ile \w+ zebrała? ": lambda a, b: a + b,
    r"miała? {n} \w+ i oddała? \w+ {n} ": lambda a, b: a - b,
    r"ma {n} \w+, a \w+ ma {n} \w+\. O ile więcej": lambda a, b: a - b,
    r"miała? {n} \w+\. Od \w+ dostała? {n} \w+, a potem zgubiła? {n} ": lambda a, b, c: a + b - c,
    r"zebrała? {n} \w+, a \w+ o {n} \w+ więcej\. Ile \w+ zebra(?:li|ły) razem": lambda a, b: a + a + b,
    r"zebrała? {n} \w+, a \w+ o {n} \w+ mniej\. Ile \w+ zebra(?:li|ły) razem": lambda a, b: a + a - b,
    r"jechał[aoy]? {n} os.*wysiadł[aoy]? {n} \w+, a wsiadł[aoy]? {n} ": lambda a, b, c: a - b + c,
    r"miała? {n} zł\. Na \w+ wydała? {n} zł, a na \w+ {n} zł": lambda a, b, c: a - b - c,
    r"Książka ma {n} .* przeczytała? {n} \w+, a \w+ \w+ {n} ": lambda a, b, c: a - b - c,
    r"kupiła? {n} \w+ po {n} zł za sztukę": lambda a, b: a * b,
    r"kupiła? {n} \w+ po {n} zł i {n} \w+ po {n} zł\. Ile": lambda a, b, c, d: a * b + c * d,
    r"ma {n} pudełk?[aeo][k]?\. W każdym (?:jest|są) {n} ": lambda a, b: a * b,
    r"po równo {n} \w+ między {n} os": lambda a, b: a / b,
    r"W sklepie {n} \w+ kosztuj[eą] {n} zł.* za {n} ": lambda a, b, c: b / a * c,
    r"kupiła? {n} \w+ po {n} zł i zapłaciła? banknotem {n} zł": lambda a, b, c: c - a * b,
    r"kosztował[ao]? {n} zł\. Cenę obniżono o {n}%": lambda a, b: a * (100 - b) / 100,
    r"kosztował[ao]? {n} zł\..* podniesiono o {n}%.* obniżono o {n}%": lambda a, b, c: (
        a * (100 + b) * (100 - c) / 10000
    ),
    r"(?:uczy się|trenuje|śpiewa|siedzi|mieszka) {n} \w+\. {n}% z nich": lambda a, b: a * (100 - b) / 100,
    r"przeczytała? {n}/{n} książki, która ma {n} ": lambda a, b, c: c * (b - a) / b,
    r"miała? {n} zł\. .*połowę.* {n}% reszty": lambda a, r: a / 2 * (100 - r) / 100,
    r"miała? {n} zł\. .*trzecią.* {n}% reszty": lambda a, r: a * 2 / 3 * (100 - r) / 100,
    r"miała? {n} zł\. .*czwartą.* {n}% reszty": lambda a, r: a * 3 / 4 * (100 - r) / 100,
    r"miała? {n} zł\. .*piątą.* {n}% reszty": lambda a, r: a * 4 / 5 * (100 - r) / 100,
    r"zjadła? {n}/{n} \w+, a \w+ {n}/{n}\.": lambda a, b, c, d: 1 - a / b - c / d,
    r"kupiła? {n} \w+ po {n} zł i {n} \w+ po {n} zł\. Przy .* {n}% rab": lambda a, b, c, d, r: (
        (a * b + c * d) * (100 - r) / 100
    ),
    r"z dwóch spr.* to {n} .* wyniosła {n} ": lambda a, b: 3 * b - 2 * a,
    r"z trzech spr.* to {n} .* wyniosła {n} ": lambda a, b: 4 * b - 3 * a,
    r"z czterech spr.* to {n} .* wyniosła {n} ": lambda a, b: 5 * b - 4 * a,
    r"z pięciu spr.* to {n} .* wyniosła {n} ": lambda a, b: 6 * b - 5 * a,
    r"z sześciu spr.* to {n} .* wyniosła {n} ": lambda a, b: 7 * b - 6 * a,
    r"wydała? w poniedziałek {n} zł, we wtorek {n} zł i w środę {n} zł\. Ile": lambda *a: sum(a) / Fraction(3),
    r"wydała? w poniedziałek {n} zł, we wtorek {n} zł, \w+ środę {n} zł i .* {n} zł\. Ile": lambda *a: (
        sum(a) / Fraction(4)
    ),
    r"wydała? .* {n} zł, .* {n} zł, .* {n} zł, .* {n} zł i .* {n} zł\. Ile": lambda *a: sum(a) / Fraction(5),
    r" o {n}:{n} i .* o {n}:{n}\. .* razem {n} minut": lambda a, b, c, d, e: (c - a) * 60 + d - b - e,
    r"mają razem {n} \w+\. \w+ ma o {n} ": lambda a, b: (a - b) / 2,
    r"Mają razem {n} gł\w+ i {n} n": lambda n, m: m / 2 - n,
    r"jest {n} razy .* Razem mają {n} .* za {n} ": lambda k, a, b: a / (k + 1) + b,
    r"rowerze {n} .* prędkością {n} km/h, a potem {n} .* prędkością {n} km/h": lambda s, v, t, w: (
        (s * v + t * w) / (s + t)
    ),
    r"odległych o {n} km.* prędkością {n} km/h, a \w+ {n} km/h": lambda d, v, w: d / (v + w),
}


def test_answers_are_what_the_sentences_say(problems: list[dict[str, Any]]) -> None:
    numerals = {numeral(n, gender, case): n for gender in ("m3", "f", "n") for case in (N, A) for n in range(1, 200)}
    words = "|".join(sorted(numerals, key=len, reverse=True))
    number = rf"(\d+(?:,\d+)?|\b(?:{words})\b)"
    readings = {re.compile(pattern.replace("{n}", number)): solve for pattern, solve in READINGS.items()}
    used = set()
    for problem in problems[:2500]:
        text = question(problem)
        found = [(pattern, match) for pattern in readings if (match := pattern.search(text))]
        assert len(found) == 1, (text, [pattern.pattern.replace(number, "{n}") for pattern, _ in found])
        pattern, match = found[0]
        values = [Fraction(numerals[part]) if part in numerals else written(part) for part in match.groups()]
        assert readings[pattern](*values) == written(problem["answer"]), problem
        used.add(pattern)
    assert len(used) == len(readings)


def test_form_of_a_problem(problems: list[dict[str, Any]]) -> None:
    assert {problem["level"] for problem in problems} == set(LEVELS)
    assert len({problem["id"] for problem in problems}) == len(problems)
    assert len({question(problem) for problem in problems}) == len(problems)
    for problem in problems:
        text = question(problem)
        assert set(problem) == {"id", "level", "messages", "answer", "solution", "expression"}
        assert problem_with(problem["messages"], needs_answer=False) is None
        assert problem_with(as_conversation(problem)["messages"]) is None
        assert text[0].isupper()
        assert text[-1] in "?."
        assert not re.search(r"  |None|Fraction|[{}]|-| 0 ", text), text


def test_levels_keep_their_limits() -> None:
    for level, limit, operations in ((1, 20, 1), (2, 100, 2)):
        for problem in generate(1000, [level]):
            numbers = [int(number) for number in re.findall(r"\d+", question(problem) + problem["solution"])]
            assert max(numbers) < limit
            assert problem["level"] == level
            assert len(re.findall(r" [-+*/] ", problem["expression"])) == operations


def test_same_seed_same_problems_and_a_larger_count_only_adds() -> None:
    assert list(generate(60, seed=5)) == list(generate(200, seed=5))[:60]
    assert list(generate(60, seed=5)) != list(generate(60, seed=6))


def test_splits_never_share_a_text() -> None:
    train = {question(problem) for seed in (0, 1) for problem in generate(1500, [1, 2, 4], seed, "train")}
    test = {question(problem) for seed in (0, 1, 2) for problem in generate(300, [1, 2, 4], seed, "test")}
    assert not train & test
    assert {split_of(text) for text in train} == {"train"}
    assert {split_of(text) for text in test} == {"test"}
    share = sum(split_of(question(problem)) == "test" for problem in generate(2000)) / 2000
    assert 0.07 < share < 0.13


@pytest.fixture(scope="module")
def tags() -> Callable[[str], set[str]]:
    """All tags of a word form, from morfeusz2 with the SGJP dictionary, dots expanded."""
    morfeusz2 = pytest.importorskip("morfeusz2")
    dictionary = morfeusz2.Morfeusz(generate=False)

    def expanded(form: str) -> set[str]:
        found = set()
        for _, _, (_, lemma, tag, _, _) in dictionary.analyse(form):
            parts: list[str] = [""]
            for field in tag.split(":"):
                parts = [f"{part}:{value}" for part in parts for value in field.split(".")]
            found |= {part[1:] + " " + lemma.split(":")[0] for part in parts}
        return found

    return expanded


GENDER = {"m3": ("m3", "m2"), "f": ("f",), "n": ("n",)}


def test_nouns_agree_with_their_number(tags: Callable[[str], set[str]]) -> None:
    for noun in things():
        for number in (1, 2, 3, 4, 5, 11, 12, 14, 21, 22, 25, 100, 101, 102, 112, 122):
            for case, name in ((N, "nom"), (A, "acc")):
                _, form = counted(number, noun, case).rsplit(" ", 1)
                tail = number % 10 in (2, 3, 4) and number % 100 not in (12, 13, 14)
                wanted = ("sg", name) if number == 1 else ("pl", name) if tail else ("pl", "gen")
                genders = GENDER[noun.sg_gender]
                start = {f"subst:{wanted[0]}:{wanted[1]}:{gender}" for gender in genders}
                assert any(tag.startswith(tuple(start)) and tag.endswith(" " + noun.sg[N]) for tag in tags(form)), form


def test_numerals_are_in_the_dictionary_with_their_gender(tags: Callable[[str], set[str]]) -> None:
    for gender in ("m3", "f", "n"):
        for number in range(1, 1000):
            for word in numeral(number, gender, A).split():
                analyses = tags(word)
                assert any(tag.startswith(("num:", "adj:sg:", "subst:")) for tag in analyses), word
            if number % 10 == 2 and number % 100 != 12:
                last = numeral(number, gender, A).split()[-1]
                assert any(
                    tag.startswith("num:pl:acc:") and f":{name}:" in tag
                    for tag in tags(last)
                    for name in GENDER[gender]
                )
    assert numeral(1, "f", A) == "jedną"
    assert numeral(1, "f", N) == "jedna"
    assert numeral(21, "f") == "dwadzieścia jeden"
    assert numeral(22, "f") == "dwadzieścia dwie"
    assert numeral(12, "f") == "dwanaście"
    assert numeral(999, "n") == "dziewięćset dziewięćdziesiąt dziewięć"
    for number in (0, 1000, -1):
        with pytest.raises(ValueError, match="needs 1 to 999"):
            numeral(number, "n")


def test_verbs_agree_with_people(tags: Callable[[str], set[str]]) -> None:
    women = [person for person in people() if person.woman]
    assert len(women) > 5
    for verb in ("dał", "zabrał", "kupił", "zebrał", "oddał", "miał", "dostał", "zgubił", "wydał", "przeczytał", "zapłacił",
                 "rozdzielił", "zjadł", "wydawał", "jechał"):  # fmt: skip
        assert any(tag.startswith("praet:sg:f") for tag in tags(women[0].did(verb))), verb
        assert any(tag.startswith("praet:sg:m") for tag in tags(verb)), verb
    for verb in ("leżał", "jechał", "wysiadł", "wsiadł"):
        for noun in things():
            number_one = {"m3": "praet:sg:m3", "f": "praet:sg:f", "n": "praet:sg:n"}[noun.sg_gender]
            assert any(tag.startswith(number_one) for tag in tags(happened(1, noun, verb)))
            assert any(tag.startswith("praet:pl:f") for tag in tags(happened(3, noun, verb)))
            assert any(tag.startswith("praet:sg:n") for tag in tags(happened(5, noun, verb)))


def test_every_word_of_every_problem_is_polish(problems: list[dict[str, Any]], tags: Callable[[str], set[str]]) -> None:
    words = {
        word
        for problem in problems
        for word in re.findall(r"[^\W\d_]+", question(problem) + " " + problem["solution"].replace("\\boxed", ""))
    }
    unknown = [word for word in words if all(tag.startswith("ign") for tag in tags(word))]
    assert unknown == []
    assert len(goods()) > 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": -1}, "--count is -1, needs 0 or more"),
        ({"count": 1, "levels": [1, 9]}, "--levels has 9, needs levels from 1 to 5"),
        ({"count": 1, "levels": []}, "--levels is empty"),
        ({"count": 1, "split": "dev"}, "--split is 'dev', needs train or test"),
    ],
)
def test_bad_options(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ProblemError, match=re.escape(message)):
        generate(**arguments)


def test_more_than_there_are_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LEVELS, 1, (lambda rng: LEVELS[2][0](Random(rng.randint(0, 2))),))
    with pytest.raises(ProblemError, match="level 1 has no new problem after 3"):
        list(generate(10, [1]))


def test_none_and_one() -> None:
    assert list(generate(0)) == []
    (one,) = generate(1, [4], instruction="")
    assert one["messages"][0]["content"][-1] in "?."


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "generate_problems.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)


def test_tool(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    done = run("--output", path, "--count", 20, "--levels", "1,2", "--seed", 4, "--split", "test")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in path.read_text().splitlines()] == list(generate(20, [1, 2], 4, "test"))
    done = run("--output", path, "--count", 5, "--form", "sft")
    assert [json.loads(line) for line in path.read_text().splitlines()] == [as_conversation(p) for p in generate(5)]
    before = path.read_text()
    for option, value in (("--levels", "1;2"), ("--levels", "7"), ("--count", "-3")):
        done = run("--output", path, option, value)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
    assert path.read_text() == before
    assert [file.name for file in tmp_path.iterdir()] == ["x.jsonl"]


def test_pairs_differ_in_the_answer_alone() -> None:
    from megatron_bielik.posttrain.rewards.math_answer import math_answer

    for problem in generate(500, [1, 2, 3, 4, 5], 5):
        pair = as_pair(problem)
        assert math_answer(pair["chosen"], problem) == 1
        assert math_answer(pair["rejected"], problem) == 0
        assert len(pair["chosen"]) == len(pair["rejected"])
        differing = sum(a != b for a, b in zip(pair["chosen"], pair["rejected"], strict=True))
        assert 1 <= differing <= pair["chosen"].count(problem["answer"])


def test_small_numbers_are_a_part_of_the_same_problems() -> None:
    everything = list(generate(400, levels=(1,), seed=3, split="train", instruction=""))
    small = list(generate(40, levels=(1,), seed=3, split="train", instruction="", largest=9))
    fit = [one for one in everything if max(map(int, re.findall(r"\d+", one["expression"]))) <= 9]
    assert small == fit[:40]
    with pytest.raises(ProblemError, match="--largest is 0, which leaves 0 of 5 problems"):
        list(generate(5, levels=(1,), largest=0))
