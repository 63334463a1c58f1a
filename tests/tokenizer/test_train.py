"""Training: the entries of APT4, digits and punctuation apart, the same bytes every time, and nothing left after a failure."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor

from megatron_bielik.corpus.synthetic import generate_document
from megatron_bielik.tokenizer import train
from megatron_bielik.tokenizer.fast import fast_tokenizer
from megatron_bielik.tokenizer.sentencepiece_model import (
    ALPHABET,
    SMALLEST,
    SPECIAL_TOKENS,
    TokenizerError,
    train_model,
    training_lines,
)
from megatron_bielik.tokenizer.train import TrainOptions, build_tokenizer, check, train_tokenizer

MARKS = "W 2024 roku (12,5%) było -- 345 000 osób!!! ... „Tak”, «nie» ::: $100 foo_bar(x[0], 'a')\tb\r\nkot    pies   "
TEXTS = [generate_document(0, index)["text"] for index in range(300)] + [MARKS] * 200


@pytest.fixture(scope="module")
def model() -> bytes:
    return train_model(TEXTS, 1000)


@pytest.fixture(scope="module")
def pieces(model: bytes) -> list[str]:
    processor = SentencePieceProcessor(model_proto=model)
    return [processor.id_to_piece(number) for number in range(processor.get_piece_size())]


def test_the_entries_are_those_of_apt4(model: bytes, pieces: list[str]) -> None:
    processor = SentencePieceProcessor(model_proto=model)
    assert len(pieces) == 1000
    assert pieces[:7] == list(SPECIAL_TOKENS)
    assert pieces[7:263] == [f"<0x{byte:02X}>" for byte in range(256)]
    assert processor.is_unknown(0)
    assert all(processor.is_control(number) for number in range(1, 7))
    assert set(ALPHABET) <= set(pieces)
    assert len(set(pieces)) == len(pieces)


def test_pieces_hold_one_mark_or_digit_and_nothing_else(pieces: list[str]) -> None:
    learned = [piece for piece in pieces[263:] if len(piece) > 1]
    assert len(learned) > 400
    assert "▁(" in learned  # the space before a mark may go with it
    assert [piece for piece in learned if not piece.strip("▁")]  # white space of its own
    for piece in learned:
        inner = piece.removeprefix("▁") if len(piece) == 2 else piece
        kinds = [unicodedata.category(character)[0] for character in inner if character != "▁"]
        assert len(inner) == 1 or not set(kinds) & set("PS"), piece
        assert "N" not in kinds, piece
        assert "▁" not in piece.lstrip("▁"), piece
        assert not set(kinds) & set("CZ"), piece


def test_the_same_texts_give_the_same_bytes(model: bytes) -> None:
    assert train_model(iter(TEXTS), 1000) == model
    assert train_model(TEXTS[1:], 1000) != model
    assert b"/" not in model.replace(b"</", b"")[-400:]  # no paths


def test_lines_for_training_are_whole() -> None:
    """Nothing but boundaries is added, and only what cannot be trained on goes; long lines are cut, not dropped."""
    assert list(training_lines(["a (b), c\n\n(d)\x00e▁f"])) == [
        "a\x11 (\x11b\x11)\x11\x11,\x11 c",
        "(\x11d\x11)\x11\x11e\x11f",
    ]
    long = " ".join(["słowo"] * 50_000)
    parts = list(training_lines([long]))
    assert len(parts) > 2
    assert " ".join(parts) == long
    unbroken = "ą" * 250_000
    assert "".join(training_lines([unbroken])) == unbroken
    assert "xyzzyq" in "".join(  # a word at the end of a document of a megabyte is learnt
        SentencePieceProcessor(model_proto=train_model(["a " * 500_000 + "xyzzyq " * 9], 450)).encode(
            "xyzzyq", out_type=str
        )
    ).split("▁")


@pytest.mark.parametrize(
    ("texts", "vocab_size", "message"),
    [
        (["a"], 200, f"--vocab-size is 200, needs at least {SMALLEST}"),
        ([chr(0x4E00 + index) for index in range(3000)], 1000, f"needs at least {SMALLEST + 3000} for the characters"),
        (["\n", "\x00\n"], 1000, "--input holds no text to train on"),
        ([], 1000, "--input holds no text to train on"),
    ],
)
def test_what_cannot_be_trained_is_one_line(texts: list[str], vocab_size: int, message: str) -> None:
    with pytest.raises(TokenizerError, match=message) as error:
        train_model(texts, vocab_size)
    assert "\n" not in str(error.value)


def test_a_poor_text_gives_fewer_entries_and_says_so(tmp_path: Path) -> None:
    said: list[str] = []
    summary = build_tokenizer([b"ala ma kota"] * 10, 2000, tmp_path / "out", said.append)
    assert SMALLEST <= summary.entries < 420
    assert any(f"gives {summary.entries} entries, not 2,000" in line for line in said)


def test_the_summary_counts_what_was_checked(tmp_path: Path) -> None:
    texts = ["ala ma kota\n\n", "漢 ala"]
    summary = build_tokenizer([texts[0].encode()] * 50, 420, tmp_path / "a")
    assert summary.characters == 50 * 13
    assert summary.byte_rate == 0  # line ends are not counted
    assert (
        check(*(lambda m: (m, fast_tokenizer(m)))((tmp_path / "a/tokenizer.model").read_bytes()), texts).byte_tokens
        == 3
    )


def test_nothing_is_left_when_the_two_forms_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the escapes a U+2581 is lost, without the merges ids differ: either is noticed before the folder appears."""
    texts = [text.encode() for text in TEXTS[:50]]
    monkeypatch.setattr(train, "fast_tokenizer", lambda model: fast_tokenizer(train_model(TEXTS[:20], 500)))
    with pytest.raises(TokenizerError, match="give different ids for"):
        build_tokenizer(texts, 600, tmp_path / "out")
    monkeypatch.undo()
    monkeypatch.setattr("megatron_bielik.tokenizer.sentencepiece_model.ESCAPES", {"\u0010": "\u00100"})
    monkeypatch.setattr("megatron_bielik.tokenizer.fast.ESCAPES", {"\u0010": "\u00100"})
    with pytest.raises(TokenizerError, match="does not give back"):
        build_tokenizer(texts, 600, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_kept(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("ala ma kota\n" * 10, encoding="utf-8")
    (tmp_path / "out").mkdir()
    train_tokenizer(TrainOptions((str(tmp_path / "c.txt"),), tmp_path / "out", 420))  # empty: fine
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert sorted(before) == ["chat_template.jinja", "tokenizer.json", "tokenizer.model", "tokenizer_config.json"]
    with pytest.raises(TokenizerError, match="is there already; remove it or give another folder"):
        train_tokenizer(TrainOptions((str(tmp_path / "c.txt"),), tmp_path / "out", 430))
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    config = json.loads(before["tokenizer_config.json"])
    assert (config["eos_token"], config["pad_token"], config["clean_up_tokenization_spaces"]) == ("</s>", "</s>", False)
    assert config["add_bos_token"] is False, "llama.cpp would put <s> before a text"
    assert "add_prefix_space" not in config, "the space before a text stays"
