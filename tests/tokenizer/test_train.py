"""The trained tokenizer: APT4's special tokens, lossless round trips, split digits and punctuation, AutoTokenizer."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from megatron_bielik.corpus.synthetic import write_corpus
from megatron_bielik.tokenizer.train import SPECIAL_TOKENS, read_texts, save_tokenizer, train_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tokenizer")
    write_corpus(root / "c.jsonl", 300_000, 0)
    numbers = ["W 2024 roku (12,5%) było -- 345 000 osób!!! ... „Tak”, «nie» ::: $100"] * 200
    save_tokenizer(train_tokenizer([*read_texts([root / "c.jsonl"]), *numbers], 1000), root / "out")
    return root / "out"


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def test_special_tokens_have_the_ids_of_apt4(tokenizer: Tokenizer) -> None:
    assert [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == list(range(7))
    assert tokenizer.get_vocab_size() == 1000
    assert tokenizer.encode("a</s><|im_end|>").ids[-2:] == [2, 4]


def test_auto_tokenizer_loads_it(folder: Path) -> None:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(folder)
    assert (loaded.unk_token_id, loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id) == (0, 1, 2, 2)
    assert set(loaded.convert_tokens_to_ids(list(SPECIAL_TOKENS))) <= set(loaded.all_special_ids) | set(range(7))
    chat = [{"role": "system", "content": "Bądź miły."}, {"role": "user", "content": "Cześć!"}]
    assert loaded.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == (
        "<s><|im_start|>system\nBądź miły.<|im_end|>\n<|im_start|>user\nCześć!<|im_end|>\n<|im_start|>assistant\n"
    )
    text = "Zażółć gęślą jaźń, 123!"
    assert loaded.decode(loaded(text, add_special_tokens=False).input_ids) == text


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_unicode_survives(tokenizer: Tokenizer, text: str) -> None:
    for token in SPECIAL_TOKENS:
        text = text.replace(token, "")
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert 0 not in ids


def test_digits_and_punctuation_stand_alone(tokenizer: Tokenizer) -> None:
    for token in tokenizer.get_vocab():
        if token in SPECIAL_TOKENS:
            continue
        text = tokenizer.decode([tokenizer.token_to_id(token)])
        if "\ufffd" in text or len(text) == 1:
            continue
        assert not re.search(r"\d|[^\w\s]", text), token
    assert [tokenizer.decode([i]) for i in tokenizer.encode("12,5%!!").ids] == ["1", "2", ",", "5", "%", "!", "!"]


def test_wrong_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--vocab-size is 200, needs at least 263"):
        train_tokenizer(["a"], 200)
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"body": "b"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2: no text under the key 'text'"):
        list(read_texts([tmp_path / "a.jsonl"]))
    (tmp_path / "b.csv").write_text("x", encoding="utf-8")
    with pytest.raises(ValueError, match=r"needs \.jsonl"):
        list(read_texts([tmp_path / "b.csv"]))


def test_reading_stops_at_the_limit(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("raz\n\ndwa\ntrzy\n", encoding="utf-8")
    assert list(read_texts([tmp_path / "a.txt"], max_bytes=5)) == ["raz\n", "dwa\n"]
