"""Prompts for GRPO: rows checked and measured, kept as JSON text beside the fields that rewards read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from megatron_bielik.posttrain.chat import ChatEncoder
from megatron_bielik.posttrain.config import GRPOData
from megatron_bielik.posttrain.data import Dropped, Prepared, Row, prepare
from megatron_bielik.posttrain.errors import ChatError
from megatron_bielik.posttrain.messages import problem_with

SCHEMA = pa.schema([("prompt", pa.string()), ("sample", pa.string())])


def encode_prompts(
    folder: Path,
    name: str,
    patterns: Sequence[str],
    options: GRPOData,
    encoder: ChatEncoder,
    tokenizer_hash: str,
    progress: Callable[[int, int], None] = lambda rows, size: None,
) -> Prepared:
    """Check the prompts of files; see data.prepare. Raises DataError.

    Returns:
        Rows of prompt, JSON of messages and tools as prompt_ids reads it, and sample, JSON of the row's other fields.
    """

    def check(row: Row) -> Row:
        messages = row.get("messages", row.get("prompt"))
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        if problem := problem_with(messages, needs_answer=False):
            raise Dropped(problem.kind, problem.detail)
        assert messages is not None
        if options.system is not None and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": options.system}, *messages]
        prompt = json.dumps({"messages": messages, "tools": row.get("tools") or None}, ensure_ascii=False)
        return {"prompt": prompt, "sample": json.dumps(row, ensure_ascii=False, default=str)}

    def encode(rows: list[Row]) -> Iterable[Row | Dropped]:
        for row in rows:
            try:
                tokens = len(prompt_ids(encoder, row["prompt"]))
            except ChatError as error:
                yield Dropped("refused by the template", str(error))
                continue
            if tokens > options.max_prompt_tokens:
                yield Dropped("too long", f"{tokens:,} tokens, data.max_prompt_tokens is {options.max_prompt_tokens:,}")
            else:
                yield row | {"tokens": tokens, "trained": 0, "special_as_text": 0}

    settings: dict[str, Any] = {
        "tokenizer": tokenizer_hash,
        "template": encoder.template,
        "system": options.system,
        "max_prompt_tokens": options.max_prompt_tokens,
    }
    return prepare(folder, name, patterns, settings, SCHEMA, check, encode, progress)


def prompt_ids(encoder: ChatEncoder, prompt: str) -> list[int]:
    """Tokens of a prompt up to where the answer begins."""
    content = json.loads(prompt)
    ids: list[int] = encoder.encode(content["messages"], content["tools"], add_generation_prompt=True).ids.tolist()
    return ids
