"""Small tokenizers of both kinds, and a small Qwen2 model, made in a second: what replacement is tested on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from megatron_bielik.corpus.synthetic import generate_document

QWEN_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
NEW_SPECIAL = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>")


def texts(count: int, seed: int = 3) -> list[str]:
    """Generated Polish documents, with an emoji and a rare letter here and there."""
    made = [str(generate_document(seed, n)["text"]) for n in range(count)]
    return [text + (" 😀 żółć\n" if n % 5 == 0 else "\n") for n, text in enumerate(made)]


def byte_level(folder: Path, documents: list[str], size: int) -> Path:
    """As Qwen2.5's: bytes as printable characters, special tokens last, <tool_call> added but not special."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(documents, trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in QWEN_SPECIAL])
    tokenizer.add_tokens([AddedToken("<tool_call>", normalized=False)])
    save(folder, json.loads(tokenizer.to_str()), eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    return folder


def sentencepiece_like(folder: Path, documents: list[str], size: int) -> Path:
    """As Llama's: a space is U+2581, bytes without a piece are <0xNN>, special tokens first."""
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("▁", "merged_with_next"), pre_tokenizers.Split(Regex(r"\p{P}|\n"), "isolated")]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[*NEW_SPECIAL, *pieces], limit_alphabet=60, show_progress=False
    )
    tokenizer.train_from_iterator(documents, trainer)
    described = json.loads(tokenizer.to_str())
    described["added_tokens"] = [token for token in described["added_tokens"] if token["content"] in NEW_SPECIAL]
    described["model"] |= {"byte_fallback": True, "unk_token": "<unk>", "fuse_unk": True}
    described["pre_tokenizer"] = None
    described["decoder"] = json.loads(
        decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        ).__getstate__()
    )
    save(folder, described, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>")
    return folder


def save(folder: Path, described: dict[str, Any], **roles: str) -> None:
    """Write the files that transformers loads."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **roles}
    (folder / "tokenizer.json").write_text(json.dumps(described, ensure_ascii=False))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def qwen2(folder: Path, rows: int, tied: bool, dtype: torch.dtype = torch.float32, hidden: int = 48) -> Any:
    """A random two-layer model, saved into a folder that may hold a tokenizer; returns it."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(5)
    config = Qwen2Config(
        vocab_size=rows, hidden_size=hidden, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=12, tie_word_embeddings=tied, max_position_embeddings=512, initializer_range=0.1,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).to(dtype).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    model.save_pretrained(folder)
    return model
