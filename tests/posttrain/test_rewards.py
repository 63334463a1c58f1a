"""Reward functions one by one, on good completions, bad ones and those that were made to get a reward for nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import pytest

from megatron_bielik.posttrain.rewards import BUILTIN, check_options, find_reward
from megatron_bielik.posttrain.rewards.boxed import all_boxed, last_boxed
from megatron_bielik.posttrain.rewards.choice import choice
from megatron_bielik.posttrain.rewards.format import boxed_format
from megatron_bielik.posttrain.rewards.length import length
from megatron_bielik.posttrain.rewards.math_answer import math_answer
from megatron_bielik.posttrain.rewards.spec import RewardError, RewardSpec
from megatron_bielik.posttrain.rewards.tool_call import tool_call

HOSTILE = [
    "",
    " ",
    "\x00",
    "\\boxed{",
    "\\boxed{" * 5000,
    "{" * 100_000,
    "\\boxed{" + "{" * 50_000 + "}" * 50_000 + "}",
    "\\boxed{" + "9" * 1000 + "}",
    "\\boxed{}" * 10_000,
    "<tool_call>" * 10_000,
    "<tool_call>" + "[" * 100_000,
    "<tool_call>" + '{"a":' * 20_000,
    "<tool_call>" + " " * 100_000,
    "[" * 100_000,
    "Odpowiedź: " * 10_000,
    "Odpowiedź " + "(" * 100_000,
    "A" * 100_000,
    "A, " * 50_000,
    "Odpowiedź: A" + " i A" * 20_000,
    "\ud800\udfff",
    "\u202e\\boxed{5}\u202c" * 100,
    "\n" * 100_000,
    " *" * 100_000 + "x",
]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_hostile_completions_get_a_value_in_time(number: int) -> None:
    samples: list[tuple[Any, Mapping[str, Any]]] = [
        (math_answer, {"answer": "17"}),
        (choice, {"answer": "E"}),
        (tool_call, {"tool_calls": [{"name": "f", "arguments": {}}]}),
        (boxed_format, {}),
        (length, {}),
    ]
    for function, sample in samples:
        begun = time.perf_counter()
        value = function(HOSTILE[number], sample)
        assert 0.0 <= value <= 1.0
        if function not in (length, boxed_format):
            assert value == 0.0, function.__name__
        assert time.perf_counter() - begun < 2, function.__name__


@pytest.mark.parametrize(
    ("text", "box"),
    [
        (r"\boxed{5}", "5"),
        (r"\boxed{1} i \boxed{\frac{3}{4}}", r"\frac{3}{4}"),
        (r"\boxed {5}", "5"),
        (r"\boxed{a{b{c}}d}", "a{b{c}}d"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{}", ""),
        (r"\boxed{5} \boxed{6", None),
        (r"\boxed", None),
        (r"boxed{5}", None),
        (r"\boxed5", None),
    ],
)
def test_last_box(text: str, box: str | None) -> None:
    assert last_boxed(text) == box


def test_all_boxes() -> None:
    contents = [box and box.content for box in all_boxed(r"\boxed{1} \boxed{\boxed{2}} \boxed{3")]
    assert contents == ["1", r"\boxed{2}", None]


@pytest.mark.parametrize(
    ("answer", "box"),
    [
        ("12,50", "12,5"),
        ("12,50", "12.50"),
        ("12,50", r"12{,}50\text{ zł}"),
        ("12,50 zł", "12,50"),
        ("1 234", "1234"),
        ("1234", r"1\,234"),
        ("3/4", r"\frac{3}{4}"),
        ("3/4", "0,75"),
        ("20", r"20\%"),
        ("20%", "0,2"),
        ("−3", "-3"),
        ("5", "x = 5"),
        ("2", r"\sqrt{4}"),
        ("2,5", r"\sqrt{6,25}"),
        ("2,5", r"\frac{10}{4}"),
        ("1,5", r"1 + \frac{1}{2}"),
        (r"\sqrt{2}", r"\frac{2}{\sqrt{2}}"),
        ("x^2+2x+1", "(x+1)^2"),
        (r"\{1, 2\}", r"\{2, 1\}"),
        (r"(-\infty, 3)", r"(-\infty;3)"),
        (r"(0,5; 2,5)", "(0.5, 2.5)"),
        (r"\langle 1; 5)", "[1, 5)"),
        (r"\{0,5; 2\}", r"\{2;\; 0,5\}"),
        (r"\boxed{7}", "7"),
        ("14:35", "14:35"),
        ("Warszawa", r"warszawa."),
        (7, "7"),
        (0.5, r"\frac12"),
    ],
)
def test_right_answers(answer: Any, box: str) -> None:
    assert math_answer(rf"Liczymy: 2 + 2 = 4. Odpowiedź: \boxed{{{box}}}.", {"answer": answer}) == 1.0


@pytest.mark.parametrize(
    ("answer", "completion"),
    [
        ("5", "5"),
        ("5", "Odpowiedź: 5"),
        ("5", "$5$"),
        ("5", r"5 \boxed{6}"),
        ("5", r"\boxed{5} a właściwie \boxed{6}"),
        ("5", r"\boxed{5} \boxed{"),
        ("5", r"\boxed{5, 6}"),
        ("5", r"\boxed{5 lub 6}"),
        ("5", r"\boxed{4 lub 5}"),
        ("5", r"\boxed{\text{może } 5}"),
        ("5", r"\boxed{4, 5, 6}"),
        ("5", r"\boxed{\{5\}, 6}"),
        ("5", r"\boxed{x \in \{4, 5\}}"),
        ("5", r"\boxed{x = 4, x = 5}"),
        ("5", r"\boxed{5 \text{ lub } 6}"),
        ("5", r"\boxed{5 < 6}"),
        ("5", r"\boxed{4 \leq x \leq 6}"),
        ("5", r"\boxed{5}}{6}\boxed{7}"),
        ("5", r"\boxed{5 pi}"),
        ("5", r"\boxed{50\%}"),
        ("5", r"\boxed{-5}"),
        ("5", r"\boxed{answer}"),
        ("5", r"\boxed{ }"),
        ("1,5", r"\boxed{1, 5}"),
        ("1,5", r"\boxed{\{1, 5\}}"),
        ("1,5", r"\boxed{15}"),
        ("1234", r"\boxed{1,234}"),
        ("3", r"\boxed{3x}"),
        ("0", r"\boxed{\text{}}"),
        ("x", r"\boxed{y}"),
        ("Warszawa", r"\boxed{Kraków}"),
        ("14:35", r"\boxed{14:36}"),
    ],
)
def test_wrong_answers(answer: str, completion: str) -> None:
    assert math_answer(completion, {"answer": answer}) == 0.0


@pytest.mark.parametrize(
    "box",
    ["4 = 5", "5 = 4 = 6", "4 = 5, 5 = 6", r"5 \pm 1", "[4, 6]", "4, 5, 6", "4;5;6", "x = 4 \\vee x = 5", "x_1 = 4, x_2 = 5",
     r"\{4\} \cup \{5\}", "4 lub 5 lub 6", r"4 \text{ or } 5", r"4\;5\;6", "x", "x \\in [4, 6]", "4 < x < 6",
     r"4 \quad 5", "4 | 5", r"4 \\ 5", "$4$ $5$", "4$, $5", r"\begin{pmatrix} 4 \\ 5 \end{pmatrix}", "|5|", "5!",
     "4 zł 5 zł", "4/5/6", "5 4/6", "4,5 5,5"],
)  # fmt: skip
def test_a_box_never_answers_for_several_numbers(box: str) -> None:
    numbers = ["4", "5", "6", "-5", "45", "456", "0"]
    assert sum(math_answer(rf"\boxed{{{box}}}", {"answer": number}) for number in numbers) <= 1.0


def test_tolerance() -> None:
    assert math_answer(r"\boxed{3,14}", {"answer": "3,1416"}) == 0.0
    assert math_answer(r"\boxed{3,14}", {"answer": "3,1416"}, tolerance=0.001) == 1.0


@pytest.mark.parametrize("sample", [{}, {"answer": None}, {"answer": " "}, {"answer": True}, {"answer": [5]}])
def test_samples_without_an_answer(sample: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="answer of the sample is"):
        math_answer(r"\boxed{5}", sample)
    with pytest.raises(ValueError, match="needs a letter"):
        choice("B", sample)


@pytest.mark.parametrize(
    "text",
    [
        "B", "b", "B.", "(B)", " B\n", "**B**", "B)", r"\boxed{B}", r"\boxed{\text{B}}", r"$\boxed{b}$", r"\boxed{B.}",
        "Odpowiedź: B", "odpowiedź: **B**", "Odpowiedz: B", "Odp. B", "Odp.: B.", "Answer: B", "The answer is (B).",
        "Prawidłowa odpowiedź to B.", "Poprawna odpowiedź to: B, bo tak.", "Prawidłowa jest odpowiedź B.", "**Odpowiedź:** B",
        "Opcja A jest zła, C też. Odpowiedź: B", "Odpowiedź: B. Bo A i C są złe.", "Odpowiedź: B\nOdpowiedź: B",
        "B. Warszawa", "B) Warszawa leży nad Wisłą", r"Odpowiedź: \boxed{B}", r"Odpowiedź: B, czyli \boxed{B}",
        "A. Nie, bo\nC. Też nie\nOdpowiedź: B",
    ],
)  # fmt: skip
def test_choice_found(text: str) -> None:
    assert choice(text, {"answer": "B"}) == 1.0
    assert choice(text, {"answer": "b"}) == 1.0
    assert choice(text, {"answer": "C"}) == 0.0


@pytest.mark.parametrize(
    "text",
    [
        "A", "", "AB", "B A", "A, B", "A i B", "A. x\nB. y", "Odpowiedź: A i B", "Odpowiedź: B lub C", "Odpowiedź: A, B, C, D",
        "Odpowiedź: B\nOdpowiedź: A", r"\boxed{B} \boxed{A}", r"\boxed{AB}", r"\boxed{A, B}", r"Odpowiedź: A \boxed{B}", "F",
        "Basia", "Odpowiedź: Basia", "Odpowiedź: Bo tak", "odpowiedź b jest dobra", "Nie wiem, może B", "Odpowiedź B jest zła",
        "В", r"\boxed{B} \boxed{", r"\boxed{B i coś}", "BBBB", "ABCDE",
    ],
)  # fmt: skip
def test_choice_not_found(text: str) -> None:
    assert choice(text, {"answer": "B"}) == 0.0


CALL = {"name": "pogoda", "arguments": {"miasto": "Łódź", "dni": 3, "pełna": True, "progi": [1, 2.5], "x": {"y": None}}}


def block(*calls: Any) -> str:
    return "\n".join(f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>" for call in calls)


def changed(**arguments: Any) -> dict[str, Any]:
    return {"name": "pogoda", "arguments": {**CALL["arguments"], **arguments}}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("completion", "value"),
    [
        (block(CALL), 1.0),
        ("Sprawdzę.\n" + block(CALL) + "\n", 1.0),
        (json.dumps(CALL), 1.0),
        ("```json\n" + json.dumps(CALL) + "\n```", 1.0),
        (json.dumps([CALL]), 1.0),
        (block({"arguments": dict(reversed(CALL["arguments"].items())), "name": "pogoda"}), 1.0),  # type: ignore[attr-defined]
        (block({**CALL, "arguments": json.dumps(CALL["arguments"])}), 1.0),
        (block(changed(dni=3.0)), 1.0),
        (block(changed(dni="3")), 0.5),
        (block(changed(dni=4)), 0.5),
        (block(changed(pełna=1)), 0.5),
        (block(changed(progi=[2.5, 1])), 0.5),
        (block(changed(nowy=1)), 0.5),
        (block(changed(x={})), 0.5),
        (block({"name": "pogoda"}), 0.5),
        (block({"name": "Pogoda", "arguments": CALL["arguments"]}), 0.0),
        (block({"name": "", "arguments": {}}), 0.0),
        (block(CALL, CALL), 0.5),
        (block(CALL, {"name": "czas", "arguments": {}}), 0.5),
        (block(changed(dni=4), CALL), 0.5),
        (block(CALL) + "<tool_call>{", 0.5),
        ("<tool_call>" + json.dumps(CALL), 0.0),
        ("<tool_call>" + json.dumps(CALL) + "</tool_cal>", 0.0),
        ("<tool_call>pogoda</tool_call>", 0.0),
        ("pogoda Łódź", 0.0),
        ("Wynik: " + json.dumps(CALL), 0.0),
        ('<tool_call>{"name": "pogoda", "name": "pogoda", "arguments": {}}</tool_call>', 0.0),
        ('<tool_call>{"name": "pogoda", "arguments": {"dni": NaN}}</tool_call>', 0.0),
        ('<tool_call>{"name": "pogoda", "arguments": {"dni": ' + "9" * 5000 + "}}</tool_call>", 0.0),
        ('<tool_call>["pogoda"]</tool_call>', 0.0),
    ],
)
def test_tool_call(completion: str, value: float) -> None:
    assert tool_call(completion, {"tool_calls": [CALL]}) == value
    assert tool_call(completion, {"tool_calls": [{"type": "function", "function": CALL}]}) == value


def test_several_tool_calls_are_a_multiset() -> None:
    a, b = {"name": "f", "arguments": {"x": 1}}, {"name": "f", "arguments": {"x": 2}}
    other = {"name": "g", "arguments": {}}
    sample = {"tool_calls": [a, b, other]}
    assert tool_call(block(other, b, a), sample) == 1.0
    assert tool_call(block(a, a, other), sample) == pytest.approx(2.5 / 3)
    assert tool_call(block(a, a, other), sample, name_credit=0.0) == pytest.approx(2 / 3)
    assert tool_call(block(a), sample) == pytest.approx(1 / 3)
    # A call equal to a later one must not be taken for a partner by its name.
    assert tool_call(block(b, {"name": "f", "arguments": {"x": True}}), {"tool_calls": [a, b]}) == 0.75
    assert tool_call(block({"name": "f", "arguments": {"x": True}}, a), {"tool_calls": [a, b]}) == 0.75


def test_no_tool_call_wanted() -> None:
    assert tool_call("Nie trzeba.", {"tool_calls": []}) == 1.0
    assert tool_call(block(CALL), {"tool_calls": []}) == 0.0
    assert tool_call("<tool_call>", {"tool_calls": []}) == 0.0


def test_a_closing_tag_inside_a_string_is_text() -> None:
    call = {"name": "zapisz", "arguments": {"tekst": "</tool_call><tool_call>"}}
    assert tool_call(block(call, CALL), {"tool_calls": [CALL, call]}) == 1.0


@pytest.mark.parametrize("calls", [None, "f", [5], [{"name": 5}], [{"name": "f", "arguments": 5}]])
def test_samples_with_bad_tool_calls(calls: Any) -> None:
    with pytest.raises(ValueError, match="of the sample is"):
        tool_call("x", {"tool_calls": calls})


@pytest.mark.parametrize(
    ("text", "options", "value"),
    [
        (r"Więc \boxed{5}", {}, 1.0),
        (r"Więc $\boxed{5}$.", {}, 1.0),
        (r"\[\boxed{5}\]" + "\n", {}, 1.0),
        (r"**\boxed{5}**", {}, 1.0),
        (r"<answer>\boxed{5}</answer>", {}, 1.0),
        (r"\boxed{5} zł", {}, 0.0),
        (r"\boxed{5} zł", {"tail": 2}, 1.0),
        (r"\boxed{5} złotych", {"tail": 2}, 0.0),
        (r"\boxed{5} \boxed{5}", {}, 0.0),
        (r"\boxed{5} \boxed{5}", {"boxes": 2}, 1.0),
        (r"\boxed{\boxed{5}}", {}, 0.0),
        (r"\boxed{}", {}, 0.0),
        (r"\boxed{ }", {}, 0.0),
        (r"\boxed{5", {}, 0.0),
        (r"\boxed{5} \boxed{", {}, 0.0),
        ("5", {}, 0.0),
        ("", {}, 0.0),
    ],
)
def test_format(text: str, options: dict[str, float], value: float) -> None:
    assert boxed_format(text, {}, **options) == value


def test_length() -> None:
    assert [length("ż" * n, {}, 10, 20) for n in (0, 10, 11, 15, 19, 20, 1000)] == [1, 1, 0.9, 0.5, 0.1, 0, 0]
    assert [length("x" * n, {}, 10, 10) for n in (10, 11)] == [1, 0]
    with pytest.raises(ValueError, match="needs 0 <= limit <= end"):
        length("x", {}, 20, 10)
    with pytest.raises(ValueError, match="at least 1"):
        boxed_format("x", {}, boxes=0)


def test_registry() -> None:
    for name in BUILTIN:
        function = find_reward(name)
        assert callable(function)
        check_options(RewardSpec(name), function)
    assert find_reward("megatron_bielik.posttrain.rewards.length:length") is length


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("math_anwser", "did you mean 'math_answer'? known are math_answer, choice"),
        ("", "reward '' is not known"),
        ("no_such_module:f", "no_such_module cannot be imported (ModuleNotFoundError"),
        ("json:dumbs", "json has no function 'dumbs', did you mean 'dumps'?"),
        ("json:__doc__", "json has no function '__doc__'"),
        ("json:", "reward 'json:' is not known"),
    ],
)
def test_unknown_rewards(name: str, message: str) -> None:
    with pytest.raises(RewardError) as caught:
        find_reward(name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_specs() -> None:
    for options in ({"x": "5"}, {"x": float("nan")}, {"x": True}):
        with pytest.raises(RewardError, match="needs a finite number"):
            RewardSpec("length", 1.0, options)  # type: ignore[arg-type]
    with pytest.raises(RewardError, match="weight is inf"):
        RewardSpec("length", float("inf"))
    with pytest.raises(RewardError, match=r"has no option 'limt', did you mean 'limit'\? \(it has limit, end\)"):
        check_options(RewardSpec("length", options={"limt": 5}), length)
