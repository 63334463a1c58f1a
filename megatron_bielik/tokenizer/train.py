"""Trains a small byte-level BPE tokenizer with the special tokens of APT4, saved as a folder that AutoTokenizer loads.

The tokens 0 to 6 and the ChatML template are those of the Bielik v3 tokenizer (APT4); the rest is a byte-level BPE, so
that any Unicode text survives a round trip without <unk>. Digits and punctuation marks are always tokens of their own.
Only `tokenizers` is used: no transformers, no torch.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import zstandard
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>")  # IDs 0 to 6

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

# The split of Qwen2 and Qwen2.5: it keeps digits apart, and the fast encoder knows it.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SMALLEST = len(SPECIAL_TOKENS) + 256


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train on an iterable of documents.

    Args:
        texts: Documents; read once.
        vocab_size: Entries wanted, special tokens included; a small corpus may give fewer.

    Raises:
        ValueError: vocab_size has no room for the special tokens and the 256 bytes.
    """
    if vocab_size < _SMALLEST:
        raise ValueError(f"--vocab-size is {vocab_size}, needs at least {_SMALLEST}: special tokens and all bytes")
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    # Punctuation is split off while training only. No merge across a mark is ever learned, so none is ever applied,
    # and the saved tokenizer keeps exactly the split above, without which the fast encoder would not take it.
    punctuation = pre_tokenizers.Split(Regex(r"[\p{P}\p{S}]"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, punctuation, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja, the files that transformers 5 writes.

    The end of a document is </s>, which also pads; chats end a turn with <|im_end|>, as the chat template writes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "</s>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1_000_000_000,
    }
    files = {
        "chat_template.jinja": CHAT_TEMPLATE,
        "tokenizer_config.json": json.dumps(config, indent=2, ensure_ascii=False) + "\n",
        "tokenizer.json": tokenizer.to_str(pretty=True),
    }
    for name, text in files.items():
        temporary = folder / f"{name}.tmp"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(folder / name)


def read_texts(paths: Sequence[Path], json_key: str = "text", max_bytes: int | None = None) -> Iterator[str]:
    """Documents of .jsonl, .jsonl.gz, .jsonl.zst and .txt files (one document per line of text) for training.

    Args:
        paths: Files, read in order.
        json_key: Key of the text in a JSON line.
        max_bytes: Stop after this many bytes of text; none reads everything.

    Raises:
        ValueError: An unknown suffix, or a line that is not a JSON object with a string under json_key.
        OSError: A file cannot be read.
    """
    left = max_bytes
    for path in paths:
        is_text = path.suffix == ".txt"
        with _open_text(path) as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                text = line if is_text else _text_of(line, json_key, path, number)
                yield text
                if left is not None:
                    left -= len(text.encode())
                    if left <= 0:
                        return


def _open_text(path: Path) -> io.TextIOBase:
    if path.name.endswith((".jsonl", ".txt")):
        return path.open(encoding="utf-8")
    if path.name.endswith(".jsonl.gz"):
        return io.TextIOWrapper(gzip.open(path), encoding="utf-8")
    if path.name.endswith(".jsonl.zst"):
        return io.TextIOWrapper(zstandard.open(path, "rb"), encoding="utf-8")
    raise ValueError(f"--input is {path}, needs .jsonl, .jsonl.gz, .jsonl.zst or .txt")


def _text_of(line: str, json_key: str, path: Path, number: int) -> str:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{path}, line {number}: no valid JSON ({error}); clean the file first") from error
    text = record.get(json_key) if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise ValueError(f"{path}, line {number}: no text under the key {json_key!r}; give the right --json-key")
    return text
