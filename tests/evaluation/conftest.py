"""A tiny model with random weights, and the tasks' own utils as lm-eval loads them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from megatron_bielik.evaluation.polish_tasks import FIXTURES, TASK_FOLDER
from megatron_bielik.tokenizer.byte_level import train_byte_level, write_byte_level


def save_llama(folder: Path, vocab_size: int, seed: int = 0, **more: Any) -> None:
    """A Llama of one layer with random weights, into a folder that has its tokenizer."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "max_position_embeddings": 2048}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, **sizes, **heads, **more)).save_pretrained(folder)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    tokenizer = train_byte_level([path.read_text() for path in sorted(FIXTURES.rglob("*.jsonl"))], 600)
    write_byte_level(tokenizer, folder)
    save_llama(folder, tokenizer.get_vocab_size(), bos_token_id=None, eos_token_id=0, pad_token_id=0)
    return folder


@pytest.fixture(scope="session")
def utils() -> ModuleType:
    spec = importlib.util.spec_from_file_location("polish_utils", TASK_FOLDER / "utils.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
