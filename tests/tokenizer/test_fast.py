"""tokenizer.json against tokenizer.model: identical ids and every text back, with special tokens and in transformers too."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer

from megatron_bielik.corpus.synthetic import generate_document
from megatron_bielik.data.encode import NASTY
from megatron_bielik.tokenizer.fast import fast_tokenizer, merges_of
from megatron_bielik.tokenizer.sentencepiece_model import SMALLEST, SPECIAL_TOKENS, train_model
from megatron_bielik.tokenizer.train import build_tokenizer

TEXTS = [generate_document(3, index)["text"] for index in range(300)] + ["if (x):\n    y = 1   # a   b\n"] * 20
TRAPS = [
    *"ab ąŹ.,102\n\r\t\x00\x10\x11\x1b▁▅_",
    "\u0301",
    "\ufeff",
    "\ufffd",
    "\ue000",
    "\x85",
    "😀",
    "👩‍👧",
    "  ",
    "<0x41>",
    "</",
    "<s",
]
SPECIAL = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer([text.encode() for text in TEXTS], 1000, path)
    return path


@pytest.fixture(scope="module")
def fast(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def model(folder: Path) -> SentencePieceProcessor:
    return SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def agree(model: SentencePieceProcessor, fast: Tokenizer, text: str) -> None:
    ids = model.encode(text)
    assert fast.encode(text).ids == ids
    assert model.decode(ids) == text
    assert fast.decode(ids, skip_special_tokens=False) == text
    assert fast.decode(ids) == text
    assert 0 not in ids


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_unicode_comes_back(model: SentencePieceProcessor, fast: Tokenizer, text: str) -> None:
    agree(model, fast, SPECIAL.sub("", text))


@settings(max_examples=500, deadline=None)
@given(parts=st.lists(st.sampled_from(TRAPS), max_size=12))
def test_traps_come_back(model: SentencePieceProcessor, fast: Tokenizer, parts: list[str]) -> None:
    agree(model, fast, SPECIAL.sub("", "".join(parts)))


@pytest.mark.parametrize("text", NASTY)
def test_difficult_strings_come_back(model: SentencePieceProcessor, fast: Tokenizer, text: str) -> None:
    assert fast.decode(fast.encode(text).ids, skip_special_tokens=False) == text
    agree(model, fast, SPECIAL.sub("", text))


@settings(max_examples=300, deadline=None)
@given(parts=st.lists(st.sampled_from([*TRAPS, *SPECIAL_TOKENS * 3]), max_size=12))
def test_texts_around_special_tokens_come_back(fast: Tokenizer, parts: list[str]) -> None:
    text = "".join(parts)
    ids = fast.encode(text).ids
    assert fast.decode(ids, skip_special_tokens=False) == text
    assert [SPECIAL_TOKENS[number] for number in ids if number < 7] == SPECIAL.findall(text)


def test_the_model_reads_special_tokens_as_text(model: SentencePieceProcessor, fast: Tokenizer) -> None:
    """The one difference between the two."""
    assert fast.encode("a</s><|im_end|>").ids[-2:] == [2, 4]
    assert min(model.encode("a</s><|im_end|>")) > 6


def test_digits_and_marks_are_single_tokens(fast: Tokenizer) -> None:
    assert fast.encode("12,5%!!").tokens == ["▁", "1", "2", ",", "5", "%", "!", "!"]
    assert fast.encode("a\nb\r\n").tokens == ["▁a", "<0x0A>", "b", "<0x0D>", "<0x0A>"]


@pytest.mark.parametrize("seed", range(3))
def test_merges_follow_sentencepiece_where_pieces_overlap(seed: int) -> None:
    """Two letters and pieces of repeated parts: the hardest case for the order of merges."""
    rng = Random(seed)
    parts = ["".join(rng.choices("ab", k=rng.randint(1, 6))) for _ in range(6)]
    words = ["".join(rng.choices(parts, k=rng.randint(1, 5))) for _ in range(3000)]
    trained = train_model([" ".join(words)], SMALLEST + 60)
    model, fast = SentencePieceProcessor(model_proto=trained), fast_tokenizer(trained)
    assert sum(len(piece) > 1 for pair in merges_of(model) for piece in pair) > 60
    texts = ["".join(letters) for count in range(1, 12) for letters in itertools.product("ab", repeat=count)]
    assert [encoding.ids for encoding in fast.encode_batch(texts)] == model.encode(texts)


def test_transformers_loads_it(folder: Path, model: SentencePieceProcessor) -> None:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(folder)
    assert loaded.is_fast
    assert (loaded.unk_token_id, loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id) == (0, 1, 2, 2)
    assert loaded.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(7))
    for text in [*(SPECIAL.sub("", text) for text in NASTY), *TEXTS[:20], " nie , tak . n't 's ▁ \x10"]:
        ids = loaded(text, add_special_tokens=False).input_ids
        assert ids == model.encode(text)
        assert loaded.decode(ids) == text


def test_chats_come_back(folder: Path) -> None:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(folder)
    chat = [{"role": "system", "content": "Bądź miły."}, {"role": "user", "content": " Cześć!"}]
    expected = (
        "<s><|im_start|>system\nBądź miły.<|im_end|>\n<|im_start|>user\n Cześć!<|im_end|>\n<|im_start|>assistant\n"
    )
    assert loaded.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == expected
    ids = loaded.apply_chat_template(chat, add_generation_prompt=True).input_ids
    assert ids[:2] == [1, 3]
    assert loaded.decode(ids) == expected
    # Nothing is put between a special token and what follows.
    assert loaded.convert_ids_to_tokens(ids)[ids.index(4) + 1] == "<0x0A>"
    assert not loaded.convert_ids_to_tokens(ids)[2].startswith("▁")
