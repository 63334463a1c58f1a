"""Scores of a chat model on held-out rows of one's own: the form of answers, preferences, rewards, and loss on plain text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megatron_bielik.corpus.records import ReadCount, batches, read_rows
from megatron_bielik.data.documents import documents
from megatron_bielik.evaluation.answers import BATCH, ChatModel
from megatron_bielik.posttrain.data import Dropped
from megatron_bielik.posttrain.dpo_data import check_pair
from megatron_bielik.posttrain.rewards import find_reward
from megatron_bielik.surgery.first_loss import loss_on
from megatron_bielik.tokenizer.vocabulary import read_vocabulary

Row = dict[str, Any]
_MORE_TOKENS = 8  # an answer may be this much longer than the longest expected one


class ScoreError(ValueError):
    """Rows that cannot be scored; the message is one line for the user."""


@dataclass(frozen=True)
class FormScore:
    """Of conversations of one kind.

    Attributes:
        rows: How many.
        exact: Share of greedy answers equal to the expected one.
        form: Share whose greedy answer matches the row's regular expression `form` as a whole.
        loss: Nats per token of the expected answers.
    """

    rows: int
    exact: float
    form: float
    loss: float


@dataclass(frozen=True)
class PairScore:
    """Of preference pairs.

    Attributes:
        rows: How many.
        accuracy: Share in which the chosen answer is the likelier one.
        chosen: Mean log-probability of chosen answers, nats per answer.
        rejected: Of rejected ones.
    """

    rows: int
    accuracy: float
    chosen: float
    rejected: float


def rows_of(path: Path, option: str, *needed: str) -> list[Row]:
    """Rows of a file, each with the fields needed.

    Raises:
        ScoreError: No row, or a field is missing; the option and the place are named.
    """
    rows = []
    for place, row in read_rows([str(path)], ReadCount(), option):
        if missing := [field for field in needed if field not in row]:
            raise ScoreError(f"{option}: {place} has no {missing[0]!r}; a row needs {', '.join(needed)}")
        rows.append(row)
    if not rows:
        raise ScoreError(f"{option}: {path} has no rows")
    return rows


def form_scores(model: ChatModel, rows: Sequence[Row]) -> dict[str, FormScore]:
    """By the rows' field kind. Each row has "kind", "messages" that end with the expected answer, and "form"."""
    sums: dict[str, list[float]] = {}
    for some in batches(sorted(rows, key=lambda row: len(row["messages"][-1]["content"])), BATCH):
        prompts = [row["messages"][:-1] for row in some]
        wanted = [row["messages"][-1]["content"] for row in some]
        losses = model.answer_losses(prompts, wanted)
        given = model.answer(prompts, max(count for _, count in losses) + _MORE_TOKENS)
        for row, text, right, (loss, tokens) in zip(some, given, wanted, losses, strict=True):
            good = re.fullmatch(row["form"], text, re.DOTALL) is not None
            figures = (1, text == right, good, loss, tokens)
            sums[row["kind"]] = [a + b for a, b in zip(sums.get(row["kind"], [0] * 5), figures, strict=True)]
    return {
        kind: FormScore(int(count), exact / count, form / count, loss / tokens)
        for kind, (count, exact, form, loss, tokens) in sorted(sums.items())
    }


def pair_scores(model: ChatModel, rows: Sequence[Row]) -> PairScore:
    """Each row as DPO takes it: "prompt" (messages or the user's text), "chosen" and "rejected" (text or one message).

    Raises:
        ScoreError: A row that DPO would drop.
    """
    try:
        checked = [check_pair(row) for row in rows]
    except Dropped as dropped:
        raise ScoreError(f"--pairs: {dropped.kind}: {dropped}") from None
    found = []
    for some in batches(checked, BATCH // 2):
        prompts = [row["prompt"] for row in some]
        chosen, rejected = (
            model.answer_losses(prompts, [row[side][-1]["content"] for row in some]) for side in ("chosen", "rejected")
        )
        found += [(-good, -bad) for (good, _), (bad, _) in zip(chosen, rejected, strict=True)]
    count = len(found)
    return PairScore(
        count,
        sum(good > bad for good, bad in found) / count,
        sum(good for good, _ in found) / count,
        sum(bad for _, bad in found) / count,
    )


def reward_score(model: ChatModel, rows: Sequence[Row], reward: str, most: int) -> float:
    """Mean reward of greedy answers of up to `most` tokens; each row has "messages" and what the reward reads."""
    function = find_reward(reward)
    total = 0.0
    for some in batches(rows, BATCH):
        answers = model.answer([row["messages"] for row in some], most)
        total += sum(float(function(text, row)) for text, row in zip(answers, some, strict=True))
    return total / len(rows)


def text_losses(model: ChatModel, files: dict[str, Path], most: int) -> dict[str, float]:
    """Nats per character on the beginnings of up to `most` documents of each file, by its name."""
    vocabulary = read_vocabulary(model.folder)
    found = {}
    for name, path in files.items():
        texts = [text for text, _ in zip(documents([str(path)], "text", option="--texts"), range(most), strict=False)]
        found[name] = loss_on(model.network, vocabulary, texts, name).per_character
    return found


@dataclass(frozen=True)
class HeldOut:
    """Files to score on; each may be none.

    Attributes:
        texts: By name, plain text (JSON lines with "text").
        conversations: Rows with kind, messages, form.
        pairs: Rows with prompt, chosen, rejected.
        problems: Rows with messages and answer.
        documents: Of each text, at most.
        answer_tokens: Longest answer to a problem.
    """

    texts: dict[str, Path]
    conversations: Path | None = None
    pairs: Path | None = None
    problems: Path | None = None
    documents: int = 64
    answer_tokens: int = 64


def score(folder: Path, held_out: HeldOut, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """All scores that there are rows for: {"texts", "conversations", "pairs", "reward"}.

    Raises:
        ScoreError, ChatError, DataError: Rows or a model that cannot be used; nothing is scored before all files are read.
    """
    parts = list(_parts(held_out))
    model = ChatModel(folder)
    scores = {}
    for name, run in parts:
        say(name)
        scores[name] = run(model)
    return scores


def _parts(held_out: HeldOut) -> Iterator[tuple[str, Callable[[ChatModel], Any]]]:
    if held_out.texts:
        yield "texts", lambda model: text_losses(model, held_out.texts, held_out.documents)
    if held_out.conversations is not None:
        talks = rows_of(held_out.conversations, "--conversations", "kind", "messages", "form")
        yield "conversations", lambda model: {kind: asdict(one) for kind, one in form_scores(model, talks).items()}
    if held_out.pairs is not None:
        pairs = rows_of(held_out.pairs, "--pairs", "prompt", "chosen", "rejected")
        yield "pairs", lambda model: asdict(pair_scores(model, pairs))
    if held_out.problems is not None:
        problems = rows_of(held_out.problems, "--problems", "messages", "answer")
        yield "reward", lambda model: reward_score(model, problems, "math_answer", held_out.answer_tokens)
