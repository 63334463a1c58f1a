"""Reward for calling the right tools: name and arguments, from <tool_call> blocks (Hermes, Qwen) or bare JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_FENCE = re.compile(r"\A\s*```(?:json)?\s*\n(.*)\n\s*```\s*\Z", re.DOTALL)
_SPACE = re.compile(r"\s*")
_BROKEN: tuple[str, Any] = ("", None)

Call = tuple[str, Any]


def tool_call(completion: str, sample: Mapping[str, Any], name_credit: float = 0.5) -> float:
    """Share of the expected calls that were made, between 0.0 and 1.0.

    A call with the right name and equal arguments counts 1, one with the right name `name_credit`; the sum is divided by
    the number of calls expected or made, whichever is more (a block that is no call counts as made). The order of calls
    and keys is free; numbers are equal by value (5 and 5.0), but true is not 1 and "5" is not 5. Arguments may also be
    JSON in a string. Where no call is expected, making none is 1.0.

    Args:
        completion: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, any number of them with text around, or
            nothing but one such object or a list of them, also between ``` lines.
        sample: sample["tool_calls"] is a list of {"name", "arguments"}, also under the key "function".
        name_credit: For the right name with other arguments.

    Raises:
        ValueError: sample["tool_calls"] is no list of calls.
    """
    wanted = _expected(sample.get("tool_calls"))
    made = _calls(completion)
    if not wanted:
        return 0.0 if made else 1.0
    size = max(len(made), len(wanted))
    equal = _pair(made, wanted, lambda one, other: one[0] == other[0] and _equal(one[1], other[1]))
    named = _pair(made, wanted, lambda one, other: one[0] == other[0])
    return (equal + name_credit * named) / size


def _pair(made: list[Call], wanted: list[Call], same: Callable[[Call, Call], bool]) -> int:
    """Take pairs of the same calls out of both lists; how many there were."""
    pairs = 0
    for call in made[:]:
        partner = next((index for index, other in enumerate(wanted) if same(call, other)), None)
        if partner is not None:
            pairs += 1
            del wanted[partner]
            del made[next(index for index, other in enumerate(made) if other is call)]
    return pairs


def _expected(calls: object) -> list[Call]:
    if isinstance(calls, str) or not isinstance(calls, Sequence):
        raise ValueError(f"tool_calls of the sample is {calls!r:.60}, needs a list of name and arguments")
    read = [_call(call) for call in calls]
    for call, raw in zip(read, calls, strict=True):
        if call is _BROKEN:
            raise ValueError(f"tool call of the sample is {raw!r:.60}, needs name and arguments")
    return read


def _calls(text: str) -> list[Call]:
    calls: list[Call] = []
    position = text.find(_OPEN)
    if position < 0:
        return _bare(text)
    while position >= 0:
        start = position + len(_OPEN)
        try:
            # The object is read first: its strings may have the closing tag in them.
            value, end = _DECODER.raw_decode(text, _skip_space(text, start))
            closed = text.startswith(_CLOSE, _skip_space(text, end))
            calls.append(_call(value) if closed else _BROKEN)
        except (ValueError, RecursionError):
            calls.append(_BROKEN)
            end = start
        position = text.find(_OPEN, end)
    return calls


def _skip_space(text: str, start: int) -> int:
    return _SPACE.match(text, start).end()  # type: ignore[union-attr]  # it matches nothing, too


def _bare(text: str) -> list[Call]:
    fenced = _FENCE.match(text)
    body = (fenced[1] if fenced else text).strip()
    if not body.startswith(("{", "[")):
        return []
    try:
        value = _DECODER.decode(body)
    except (ValueError, RecursionError):
        return []
    if isinstance(value, list):
        return [_call(item) for item in value]
    return [_call(value)]


def _call(value: object) -> Call:
    if not isinstance(value, Mapping):
        return _BROKEN
    value = value.get("function", value)
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str) or not value["name"]:
        return _BROKEN
    arguments = value.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = _DECODER.decode(arguments)
        except (ValueError, RecursionError):
            return _BROKEN
    return (value["name"], arguments) if isinstance(arguments, Mapping) else _BROKEN


def _equal(one: object, other: object) -> bool:
    """Equal as JSON: by value for numbers, by kind for everything else."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_equal(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(_equal(a, b) for a, b in zip(one, other, strict=True))
    return one == other


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A key that is said twice leaves open which is meant."""
    keys = dict(pairs)
    if len(keys) != len(pairs):
        raise ValueError("a key twice")
    return keys


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse)
