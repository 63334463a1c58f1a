"""Preference pairs to tokens: prompt with answer twice, and which tokens belong to the answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from megatron_bielik.posttrain.chat import ChatEncoder, Encoded
from megatron_bielik.posttrain.config import DPOData
from megatron_bielik.posttrain.data import Dropped, Prepared, Row, prepare
from megatron_bielik.posttrain.messages import problem_with
from megatron_bielik.posttrain.sft_data import IGNORED, encode_each

_IDS, _MASK = pa.list_(pa.int32()), pa.list_(pa.bool_())
SCHEMA = pa.schema(
    [("chosen_ids", _IDS), ("chosen_trained", _MASK), ("rejected_ids", _IDS), ("rejected_trained", _MASK)]
)


def encode_pairs(
    folder: Path,
    name: str,
    patterns: Sequence[str],
    options: DPOData,
    encoder: ChatEncoder,
    tokenizer_hash: str,
    progress: Callable[[int, int], None] = lambda rows, size: None,
) -> Prepared:
    """Encode the pairs of files; see data.prepare. Raises DataError."""

    def encode(rows: list[Row]) -> Iterable[Row | Dropped]:
        conversations = []
        for row in rows:
            prompt, tools = row["prompt"], row["tools"]
            conversations += [(prompt, tools), (prompt + row["chosen"], tools), (prompt + row["rejected"], tools)]
        encoded = encode_each(encoder, conversations)
        for prompt, chosen, rejected in zip(encoded[::3], encoded[1::3], encoded[2::3], strict=True):
            yield _pair(prompt, chosen, rejected, options.sequence_length)

    settings = {"tokenizer": tokenizer_hash, "template": encoder.template, "sequence_length": options.sequence_length}
    return prepare(folder, name, patterns, settings, SCHEMA, check_pair, encode, progress)


def check_pair(row: Row) -> Row:
    """Prompt and answers as lists of messages. Raises Dropped."""
    prompt = row.get("prompt")
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if problem := problem_with(prompt, needs_answer=False):
        raise Dropped(problem.kind, f"prompt: {problem.detail}")
    checked: Row = {"prompt": list(prompt or []), "tools": row.get("tools") or None}
    for key in ("chosen", "rejected"):
        answer = row.get(key)
        if isinstance(answer, str):
            answer = [{"role": "assistant", "content": answer}]
        if not isinstance(answer, list):
            raise Dropped("no answer", f"{key} is {answer!r:.60}, it must be text or a list of messages")
        if problem := problem_with(checked["prompt"] + answer):
            raise Dropped(problem.kind, f"{key}: {problem.detail}")
        checked[key] = answer
    return checked


def _pair(
    prompt: Encoded | Dropped, chosen: Encoded | Dropped, rejected: Encoded | Dropped, most: int
) -> Row | Dropped:
    made: Row = {}
    for name, whole in (("chosen", chosen), ("rejected", rejected)):
        if isinstance(prompt, Dropped) or isinstance(whole, Dropped):
            return prompt if isinstance(prompt, Dropped) else whole  # type: ignore[return-value]
        if not np.array_equal(whole.ids[: len(prompt.ids)], prompt.ids):
            return Dropped("refused by the template", "it writes the prompt otherwise when an answer follows")
        answer = whole.trained.copy()
        answer[: len(prompt.ids)] = False  # earlier turns of the assistant belong to the prompt
        places = np.flatnonzero(answer)
        if not len(places):
            return Dropped("empty answer", f"{name} has no token of the assistant's")
        end = places[-1] + 1
        if end > most:
            return Dropped("too long", f"{name}: {end:,} tokens, data.sequence_length is {most:,}")
        made |= {f"{name}_ids": whole.ids[:end], f"{name}_trained": answer[:end]}
    if np.array_equal(made["chosen_ids"], made["rejected_ids"]):
        return Dropped("equal answers", "chosen and rejected are the same")
    tokens = len(made["chosen_ids"]) + len(made["rejected_ids"])
    trained = int(made["chosen_trained"].sum() + made["rejected_trained"].sum())
    assert isinstance(chosen, Encoded)
    assert isinstance(rejected, Encoded)
    return made | {
        "tokens": tokens,
        "trained": trained,
        "special_as_text": chosen.special_as_text + rejected.special_as_text,
    }


@dataclass(frozen=True)
class PairCollator:
    """Pairs to one batch, chosen answers first.

    Args:
        pad_token_id: Fills rows on the right.
    """

    pad_token_id: int

    def __call__(self, rows: list[Row]) -> dict[str, Any]:
        """Tensors of a batch.

        Returns:
            input_ids, attention_mask, labels (IGNORED outside the answers) [2 * pairs, tokens] int64; reference [2 * pairs]
            fp32, log-probabilities under the reference, where the rows have them.
        """
        sides = [(row, side) for side in ("chosen", "rejected") for row in rows]
        width = max(len(row[f"{side}_ids"]) for row, side in sides)
        batch = {
            "input_ids": torch.full((len(sides), width), self.pad_token_id),
            "attention_mask": torch.zeros((len(sides), width), dtype=torch.int64),
            "labels": torch.full((len(sides), width), IGNORED),
        }
        for number, (row, side) in enumerate(sides):
            ids = torch.as_tensor(row[f"{side}_ids"]).long()
            batch["input_ids"][number, : len(ids)] = ids
            batch["attention_mask"][number, : len(ids)] = 1
            trained = torch.as_tensor(row[f"{side}_trained"])
            batch["labels"][number, : len(ids)] = ids.masked_fill(~trained, IGNORED)
        if "reference_chosen" in rows[0]:
            reference = [float(row[f"reference_{side}"]) for row, side in sides]
            batch["reference"] = torch.tensor(reference, dtype=torch.float32)
        return batch
