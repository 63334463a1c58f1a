"""A byte-level BPE tokenizer of Qwen2.5's kind, for experiments and benchmarks: what the models we begin from have."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_TEXT = "<|endoftext|>"
# Where Qwen2.5 parts a text: contractions, words with a mark or space before them, single digits, runs of marks, white space.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_byte_level(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train on texts; the alphabet is all 256 bytes, <|endoftext|> is the first entry.

    Args:
        texts: Documents; read once.
        vocab_size: Entries wanted; a small sample gives fewer.
    """
    tokenizer = Tokenizer(models.BPE())
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(SPLIT), "isolated"), to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(END_OF_TEXT, special=True, normalized=False)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def write_byte_level(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json and its configuration into an existing folder."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"eos_token": END_OF_TEXT, "pad_token": END_OF_TEXT}
    (folder / "tokenizer_config.json").write_text(json.dumps(config) + "\n", encoding="utf-8")
