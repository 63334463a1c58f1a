"""A byte-level tokenizer of Qwen2.5's kind: its ids are those of transformers' Qwen2Tokenizer, and any text comes back."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import Qwen2Tokenizer

from megatron_bielik.data.encode import NASTY
from megatron_bielik.tokenizer.byte_level import END_OF_TEXT, train_byte_level, write_byte_level
from tests.surgery.vocabularies import texts


@pytest.mark.parametrize("size", [257, 600])
def test_splits_as_qwen2(size: int, tmp_path: Path) -> None:
    tokenizer = train_byte_level(texts(60), size)
    write_byte_level(tokenizer, tmp_path)
    assert tokenizer.get_vocab_size() == size
    assert tokenizer.token_to_id(END_OF_TEXT) == 0
    theirs = Qwen2Tokenizer.from_pretrained(tmp_path)
    assert theirs.eos_token_id == theirs.pad_token_id == 0
    for text in [*texts(20, seed=8), "I'll take 12,5 kg... (don't!)\r\n\r\n  x", "\tżółw 漢字 😀\u0301"]:
        assert tokenizer.encode(text).ids == theirs.encode(text)
    for text in NASTY:
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text
