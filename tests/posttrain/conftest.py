"""Shared by the post-training tests: tiny models with tokenizers of both kinds, conversations, and runs in this process."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from megatron_bielik.config import LoggingConfig, OptimizerConfig, ScheduleConfig
from megatron_bielik.posttrain.config import CheckpointConfig, ModelConfig, TrainingConfig
from megatron_bielik.tokenizer.train import build_tokenizer

WORDS = ["kot", "pies", "dom", "las", "rzeka", "góra", "miasto", "droga", "ptak", "drzewo", "źdźbło", "żółw", "łąka"]
TEXTS = [
    "Zażółć gęślą jaźń. Ile to jest dwa i dwa? Odpowiedź to cztery, czyli 4.\nsystem user assistant tool\n",
    *(" ".join(random.Random(seed).choices(WORDS, k=20)) for seed in range(200)),
    '{"name": "pogoda", "arguments": {"miasto": "Łódź"}}\n',
]
# How Qwen2 cuts a text before merging: words with one sign before them, single digits, runs of marks, line ends.
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def write_byte_level(folder: Path) -> None:
    """A byte-level BPE tokenizer as Qwen2.5 has one: no first token, <tool_call> an ordinary added token."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(QWEN2), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_special_tokens(
        [AddedToken(t, normalized=False) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")]
    )
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in ("<tool_call>", "</tool_call>")])
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


@pytest.fixture(scope="session")
def models_folder(tmp_path_factory: pytest.TempPathFactory, hf_model: Callable[..., Any]) -> Path:
    """Folder with two models: qwen2 (byte-level tokenizer) and bielik (the package's own), each a Hugging Face folder."""
    folder = tmp_path_factory.mktemp("models")
    write_byte_level(folder / "qwen2")
    build_tokenizer([text.encode() for text in TEXTS], 500, folder / "bielik")
    for kind in ("qwen2", "bielik"):
        rows = Tokenizer.from_file(str(folder / kind / "tokenizer.json")).get_vocab_size()
        model = hf_model(kind, vocab_size=rows, hidden_size=48, intermediate_size=80, num_hidden_layers=2)
        model.save_pretrained(folder / kind)
    return folder


def write_rows(path: Path, rows: Iterable[Any]) -> Path:
    """A jsonl file; a str is written as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def chats(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Conversations of one to three turns that repeat words, some with a system turn, some with a weight."""
    draw = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for number in range(count):
        messages = [{"role": "system", "content": "Powtarzaj."}] if draw.random() < 0.3 else []
        for _ in range(draw.randint(1, 3)):
            text = " ".join(draw.choices(WORDS, k=draw.randint(1, 6)))
            messages += [{"role": "user", "content": text}, {"role": "assistant", "content": text}]
        rows.append({"messages": messages, "weight": (1.0, 0.7, 0.5)[number % 3]})
    return rows


def pairs(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Preferences for repeating words as they are."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        words = draw.choices(WORDS, k=draw.randint(2, 6))
        wrong = [words[0] + "y", *words[1:]] if draw.random() < 0.5 else words[:-1]
        prompt = [{"role": "user", "content": " ".join(words)}]
        rows.append({"prompt": prompt, "chosen": " ".join(words), "rejected": " ".join(wrong)})
    return rows


def small(config: Any, model: Path, folder: Path, **options: Any) -> Any:
    """A config of three or four steps in fp32; options are named section__name=value."""
    config = replace(
        config,
        model=ModelConfig(path=str(model)),
        optimizer=OptimizerConfig(lr=1e-2, min_lr=1e-3, weight_decay=0.05),
        schedule=ScheduleConfig("cosine", warmup_steps=1),
        training=TrainingConfig(steps=4, micro_batch_size=2, global_batch_size=4, precision="fp32"),
        checkpoint=CheckpointConfig(dir=str(folder), keep_last=0),
        logging=LoggingConfig(tensorboard=False),
    )
    for name, value in options.items():
        section, option = name.split("__")
        config = replace(config, **{section: replace(getattr(config, section), **{option: value})})
    return config
