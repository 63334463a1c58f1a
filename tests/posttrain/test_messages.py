"""Which conversations are refused, and as what."""

from __future__ import annotations

from typing import Any

import pytest

from megatron_bielik.posttrain.messages import problem_with

U = {"role": "user", "content": "u"}
A = {"role": "assistant", "content": "a"}
S = {"role": "system", "content": "s"}
T = {"role": "tool", "content": "t"}
CALL = {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]}


@pytest.mark.parametrize(
    "messages", [[U, A], [S, U, A], [U, A, U, A], [U, CALL, T, A], [U, CALL, T, T, A, U, A], [U, CALL], ({**U}, A)]
)
def test_good_conversations(messages: Any) -> None:
    assert problem_with(messages) is None


@pytest.mark.parametrize(
    ("messages", "kind"),
    [
        (None, "not messages"),
        ([], "not messages"),
        ("text", "not messages"),
        ([U, "a"], "not messages"),
        ([U, {"role": "assistant"}], "not messages"),
        ([U, {"role": "assistant", "content": 3}], "not messages"),
        ([{"role": "human", "content": "x"}, A], "bad roles"),
        ([{"content": "x"}, A], "bad roles"),
        ([{"role": ["user"], "content": "x"}, A], "bad roles"),
        ([A], "bad roles"),
        ([U, U, A], "bad roles"),
        ([U, A, A], "bad roles"),
        ([U, S, A], "bad roles"),
        ([U, A, T, A], "bad roles"),
        ([U], "no answer"),
        ([U, A, U], "no answer"),
        ([U, CALL, T], "no answer"),
        ([U, {"role": "assistant", "content": " \n"}], "empty answer"),
        ([U, {"role": "assistant", "content": "\u3000\u2003"}], "empty answer"),
        ([U, {"role": "assistant", "tool_calls": "f"}], "bad tool call"),
        ([U, {"role": "assistant", "tool_calls": [{"function": {}}]}], "bad tool call"),
        ([U, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": 3}}]}], "bad tool call"),
        ([{**U, "tool_calls": CALL["tool_calls"]}, A], "bad tool call"),
    ],
)
def test_bad_conversations(messages: Any, kind: str) -> None:
    problem = problem_with(messages)
    assert problem is not None
    assert problem.kind == kind
    assert "\n" not in problem.detail


def test_prompts_end_before_the_answer() -> None:
    assert problem_with([U], needs_answer=False) is None
    assert problem_with([U, CALL, T], needs_answer=False) is None
    assert problem_with([U, A], needs_answer=False) is not None
