"""What a conversation has to be: a list of messages whose roles follow one another as a chat does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

Message = Mapping[str, Any]
Kind = Literal["not messages", "bad roles", "empty answer", "no answer", "bad tool call"]

# Who may speak after whom; None is the beginning.
_AFTER: dict[str | None, tuple[str, ...]] = {
    None: ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("tool", "assistant"),
}


class Problem(NamedTuple):
    """Why a conversation cannot be used.

    Args:
        kind: What it is counted as in reports.
        detail: The message and what is wrong with it, for the first ones that are shown.
    """

    kind: Kind
    detail: str


def problem_with(messages: object, needs_answer: bool = True) -> Problem | None:
    """The first thing wrong with a conversation, None for a good one.

    Messages are {"role": ..., "content": str} with the roles system (first only), user, assistant and tool (after an
    assistant that called tools). An assistant that calls tools may have no content:
    {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": str, "arguments": dict or str}}]}.

    Args:
        messages: What stood in the data.
        needs_answer: Whether it must end with an assistant's turn; a prompt ends with a user's or a tool's instead.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes) or not messages:
        return Problem("not messages", f"messages is {shown(messages)}, it must be a list of role and content")
    before: str | None = None
    called = False
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Mapping):
            return Problem("not messages", f"message {number} is {shown(message)}, it must have role and content")
        role = message.get("role")
        if not isinstance(role, str) or role not in _AFTER:
            return Problem("bad roles", f"message {number} has role {shown(role)}, not system, user, assistant or tool")
        if role not in _AFTER[before] or (role == "tool" and before == "assistant" and not called):
            return Problem("bad roles", f"message {number}: {role} after {before or 'nothing'}")
        if problem := _problem_with_content(message, number):
            return problem
        before, called = role, bool(message.get("tool_calls"))
    if needs_answer and before != "assistant":
        return Problem("no answer", f"the last message is {before}'s, not the assistant's")
    if not needs_answer and before not in ("user", "tool"):
        return Problem("bad roles", f"the prompt ends with {before}, it must end with user or tool")
    return None


def _problem_with_content(message: Message, number: int) -> Problem | None:
    content, calls = message.get("content"), message.get("tool_calls")
    if calls is not None and calls != []:
        if message["role"] != "assistant":
            return Problem("bad tool call", f"message {number}: {message['role']} cannot call tools")
        if problem := _problem_with_calls(calls):
            return Problem("bad tool call", f"message {number}: {problem}")
        content = content or " "
    if not isinstance(content, str):
        return Problem("not messages", f"message {number} has content {shown(content)}, it must be text")
    if message["role"] == "assistant" and not calls and not content.strip():
        return Problem("empty answer", f"message {number} is an assistant's without text")
    return None


def _problem_with_calls(calls: object) -> str | None:
    if not isinstance(calls, Sequence) or isinstance(calls, str | bytes):
        return f"tool_calls is {shown(calls)}, it must be a list"
    for call in calls:
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            return f"tool call {shown(call)} has no function name"
        if not isinstance(function.get("arguments", {}), Mapping | str):
            return f"arguments of {function['name']} are {shown(function['arguments'])}, they must be a mapping or JSON text"
    return None


def shown(value: object) -> str:
    """A value as messages quote it, 60 characters at most."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
