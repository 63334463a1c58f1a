"""Conversations to rows of tokens for SFT: encoded once, packed by best fit, collated with positions that restart."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset

from megatron_bielik.data.packing import Packing, pack
from megatron_bielik.posttrain.chat import ChatEncoder
from megatron_bielik.posttrain.config import SFTData
from megatron_bielik.posttrain.data import Dropped, Prepared, Row, prepare
from megatron_bielik.posttrain.errors import ChatError
from megatron_bielik.posttrain.messages import problem_with

IGNORED = -100  # transformers' label of a position without loss
SCHEMA = pa.schema(
    [("input_ids", pa.list_(pa.int32())), ("is_trained", pa.list_(pa.bool_())), ("weight", pa.float32())]
)


@dataclass(frozen=True)
class Packed:
    """A prepared set as rows of training.

    Args:
        rows: Dataset of {"conversations": [{"input_ids", "is_trained", "weight"}, ...]}.
        packing: Which conversations stand in which row; None where each has its own.
        sequence_length: Tokens a row can hold.
        tokens: In all rows.
    """

    rows: Dataset
    packing: Packing | None
    sequence_length: int
    tokens: int

    @property
    def efficiency(self) -> float:
        """Share of the rows' tokens that are not padding, if all rows are padded to sequence_length."""
        return self.tokens / (len(self.rows) * self.sequence_length)


def encode_set(
    folder: Path,
    name: str,
    patterns: Sequence[str],
    options: SFTData,
    encoder: ChatEncoder,
    tokenizer_hash: str,
    progress: Callable[[int, int], None] = lambda rows, size: None,
) -> Prepared:
    """Encode the conversations of files; see data.prepare. Raises DataError."""

    def check(row: Row) -> Row:
        messages = row.get("messages")
        if problem := problem_with(messages):
            raise Dropped(problem.kind, problem.detail)
        weight = row.get("weight", 1.0) if options.sample_weights else 1.0
        if not isinstance(weight, int | float) or not math.isfinite(weight) or weight <= 0:
            raise Dropped("bad weight", f"weight is {weight!r}, it must be a number above 0")
        if not isinstance(row.get("tools") or [], list):
            raise Dropped("bad tools", f"tools is {row['tools']!r:.60}, it must be a list of JSON schemas")
        return {"messages": messages, "tools": row.get("tools") or None, "weight": float(weight)}

    def encode(rows: list[Row]) -> Iterable[Row | Dropped]:
        encoded = encode_each(encoder, [(row["messages"], row["tools"]) for row in rows])
        for row, one in zip(rows, encoded, strict=True):
            if isinstance(one, Dropped):
                yield one
            elif len(one.ids) > options.sequence_length:
                yield Dropped(
                    "too long", f"{len(one.ids):,} tokens, data.sequence_length is {options.sequence_length:,}"
                )
            elif not one.trained.any():
                yield Dropped("nothing to learn", "no token of the assistant's is trained")
            else:
                yield {
                    "input_ids": one.ids,
                    "is_trained": one.trained,
                    "weight": row["weight"],
                    "tokens": len(one.ids),
                    "trained": int(one.trained.sum()),
                    "special_as_text": one.special_as_text,
                }

    settings = {
        "tokenizer": tokenizer_hash,
        "template": encoder.template,
        "sequence_length": options.sequence_length,
        "sample_weights": options.sample_weights,
    }
    return prepare(folder, name, patterns, settings, SCHEMA, check, encode, progress)


def encode_each(encoder: ChatEncoder, conversations: list[tuple[Any, Any]]) -> list[Any]:
    """Encode together; where one of them is refused, one by one, with Dropped in the place of those."""
    try:
        return list(encoder.encode_many(conversations))
    except ChatError:
        made: list[Any] = []
        for messages, tools in conversations:
            try:
                made.append(encoder.encode(messages, tools))
            except ChatError as error:
                made.append(Dropped("refused by the template", str(error)))
        return made


def pack_set(prepared: Prepared, options: SFTData) -> Packed:
    """Put the conversations of a prepared set into rows, none of them cut; without packing one into each."""
    samples = Dataset.from_file(str(prepared.path)).with_format("numpy")
    lengths = np.array(pa.compute.list_value_length(samples.data.column("input_ids")), np.int32)
    packing = pack(lengths, options.sequence_length) if options.packing else None
    numbers = range(len(lengths))
    groups = [[n] for n in numbers] if packing is None else [packing[row].tolist() for row in range(len(packing))]
    rows = Dataset.from_dict({"conversations": groups})

    def fetch(batch: Row) -> Row:
        return {"conversations": [[samples[number] for number in group] for group in batch["conversations"]]}

    return Packed(rows.with_transform(fetch), packing, options.sequence_length, int(lengths.sum()))


@dataclass(frozen=True)
class Collator:
    """Rows of conversations to one batch.

    Args:
        pad_token_id: Fills rows up to the longest; never trained.
        flat: One row of all tokens with sequence boundaries, as flash attention's variable-length kernels take it.
    """

    pad_token_id: int
    flat: bool = False

    def __call__(self, rows: list[Row]) -> dict[str, Any]:
        """Tensors of a batch.

        Returns:
            input_ids, position_ids (restarting with each conversation, by which transformers keeps them from seeing each
            other), labels (IGNORED where nothing is trained) [rows, tokens] int64; weights [rows, tokens] float32; with
            `flat` also cu_seq_lens_q and _k int32 [conversations + 1], max_length_q and _k.
        """
        groups = [row["conversations"] for row in rows]
        if self.flat:
            groups = [[one for group in groups for one in group]]
        width = max(sum(len(one["input_ids"]) for one in group) for group in groups)
        batch = {
            "input_ids": torch.full((len(groups), width), self.pad_token_id),
            "position_ids": torch.zeros((len(groups), width), dtype=torch.int64),
            "labels": torch.full((len(groups), width), IGNORED),
            "weights": torch.zeros((len(groups), width)),
        }
        for number, group in enumerate(groups):
            start = 0
            for one in group:
                ids, trained = torch.as_tensor(one["input_ids"]).long(), torch.as_tensor(one["is_trained"])
                part = slice(start, start + len(ids))
                batch["input_ids"][number, part] = ids
                batch["position_ids"][number, part] = torch.arange(len(ids))
                batch["labels"][number, part] = ids.masked_fill(~trained, IGNORED)
                batch["weights"][number, part] = float(one["weight"]) * trained
                start += len(ids)
            # Padding is a conversation of its own: one whose positions count on from nobody's.
            batch["position_ids"][number, start:] = torch.arange(width - start)
        if self.flat:
            lengths = torch.tensor([0] + [len(one["input_ids"]) for one in groups[0]])
            bounds = lengths.cumsum(0).to(torch.int32)
            longest = int(lengths.max())
            batch |= {
                "cu_seq_lens_q": bounds,
                "cu_seq_lens_k": bounds,
                "max_length_q": longest,
                "max_length_k": longest,
            }
        return batch
