"""One preference pair as it stands in the data to one that can be trained on: a prompt, two answers, two scores."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from megatron_bielik.corpus.records import Record, with_results
from megatron_bielik.posttrain.messages import Problem, problem_with, shown

Messages = list[dict[str, Any]]


class BadRow(ValueError):
    """A row that cannot be used. kind is what it is counted as, detail says what was found and what was needed."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind


@dataclass
class Pair:
    """A prompt with two answers to it.

    Args:
        prompt: Messages up to a user's or a tool's.
        chosen: Messages that answer, the assistant's first.
        rejected: The same for the worse answer.
        scores: Of chosen and of rejected; none where the row has none.
        others: Further fields of the row.
    """

    prompt: Messages
    chosen: Messages
    rejected: Messages
    scores: tuple[float, float] | None
    others: Record

    @property
    def gap(self) -> float:
        """Score of chosen over that of rejected; 0 without scores."""
        return 0.0 if self.scores is None else self.scores[0] - self.scores[1]

    def has_equal_answers(self) -> bool:
        """Whether a reader would see no difference: composed and decomposed letters and outer white space count as equal."""
        return _visible(self.chosen) == _visible(self.rejected)

    def swap(self) -> None:
        """Exchange the answers, their scores, and every other two fields chosen_X and rejected_X."""
        self.chosen, self.rejected = self.rejected, self.chosen
        if self.scores is not None:
            self.scores = self.scores[::-1]
        for name in [name for name in self.others if name.startswith("chosen_")]:
            twin = "rejected_" + name.removeprefix("chosen_")
            if twin in self.others:
                self.others[name], self.others[twin] = self.others[twin], self.others[name]

    def text(self, with_answer: bool) -> str:
        """The prompt, and the chosen answer where it is asked for, as near duplicates are looked for in.

        System messages are left out: one that all rows share would make them all alike.
        """
        messages = self.prompt + self.chosen if with_answer else self.prompt
        return "\n".join(message.get("content") or "" for message in messages if message["role"] != "system")

    def record(self) -> Record:
        """The row to be written; without scores it has none."""
        row: Record = {"prompt": self.prompt, "chosen": self.chosen, "rejected": self.rejected}
        if self.scores is not None:
            row |= {"chosen_score": self.scores[0], "rejected_score": self.scores[1]}
        return row | with_results(self.others, row)


def read_pair(row: Record, chosen_score: str, rejected_score: str, needs_scores: bool) -> Pair:
    """Check a row and bring it to one form.

    Prompt and answers may be text or lists of messages. Without "prompt", chosen and rejected are whole conversations and what
    they begin with in common is the prompt; they may be whole conversations beside a prompt too, which must then be theirs.

    Args:
        row: Fields as they were read.
        chosen_score: Name of the field with the score of chosen.
        rejected_score: The same for rejected.
        needs_scores: Whether a row without both is a bad one. A row with only one is bad in any case.

    Raises:
        BadRow: The first thing that is wrong.
    """
    prompt, chosen, rejected = _parts(row)
    if problem := problem_with(prompt, needs_answer=False):
        raise _bad("prompt", problem)
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        if problem := problem_with([*prompt, *answer]):
            raise _bad(name, problem)
        if answer[0]["role"] != "assistant":
            raise BadRow("bad roles", f"{name} begins with {answer[0]['role']}, it must begin with assistant")
    tools = row.get("tools")
    if tools is not None and not isinstance(tools, list):
        raise BadRow("bad tools", f"tools is {shown(tools)}, it must be a list")
    scores = _scores(row, chosen_score, rejected_score)
    if scores is None and needs_scores:
        raise BadRow("no scores", f"neither {chosen_score} nor {rejected_score}")
    used = ("prompt", "chosen", "rejected", chosen_score, rejected_score)
    others = {key: value for key, value in row.items() if key not in used and not (key == "tools" and value is None)}
    return Pair(prompt, chosen, rejected, scores, others)


def _bad(name: str, problem: Problem) -> BadRow:
    return BadRow(problem.kind, f"{name}: {problem.detail}")


def _parts(row: Record) -> tuple[Messages, Messages, Messages]:
    chosen, rejected = (_messages(row.get(name), name, "assistant") for name in ("chosen", "rejected"))
    if row.get("prompt") is None:
        if isinstance(row.get("chosen"), str) or isinstance(row.get("rejected"), str):
            raise BadRow("no prompt", "no prompt beside answers that are text")
        return _split(chosen, rejected)
    prompt = _messages(row["prompt"], "prompt", "user")
    if chosen[0].get("role") not in ("system", "user") and rejected[0].get("role") not in ("system", "user"):
        return prompt, chosen, rejected
    common, chosen, rejected = _split(chosen, rejected)
    if common[-len(prompt) :] != prompt:
        raise BadRow("not the prompt", "chosen and rejected are whole conversations that do not begin with the prompt")
    return common, chosen, rejected


def _messages(value: object, name: str, role: str) -> Messages:
    """A list of messages without fields that hold nothing, which parquet gives to all; text is one message of the role."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if not isinstance(value, Sequence) or isinstance(value, bytes) or not value:
        raise BadRow("not messages", f"{name} is {shown(value)}, it must be text or a list of role and content")
    for number, message in enumerate(value, 1):
        if not isinstance(message, dict):
            raise BadRow("not messages", f"{name}: message {number} is {shown(message)}, it must have role and content")
    return [{k: v for k, v in message.items() if v is not None or k == "content"} for message in value]


def _split(chosen: Messages, rejected: Messages) -> tuple[Messages, Messages, Messages]:
    """What both begin with, up to a message that can be answered, and the rest of each, which is never empty."""
    common = 0
    while common < min(len(chosen), len(rejected)) - 1 and chosen[common] == rejected[common]:
        common += 1
    while common and chosen[common - 1].get("role") not in ("user", "tool"):
        common -= 1
    if not common:
        raise BadRow("no prompt", "chosen and rejected do not begin with the same messages")
    return chosen[:common], chosen[common:], rejected[common:]


def _scores(row: Record, *names: str) -> tuple[float, float] | None:
    found = [row.get(name) for name in names]
    if found == [None, None]:
        return None
    for name, value in zip(names, found, strict=True):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise BadRow("bad score", f"{name} is {shown(value)}, it must be a finite number")
    return float(found[0]), float(found[1])  # type: ignore[arg-type]


def _visible(messages: Messages) -> list[tuple[Any, ...]]:
    return [
        (m["role"], unicodedata.normalize("NFC", m.get("content") or "").strip(), m.get("tool_calls") or None)
        for m in messages
    ]
