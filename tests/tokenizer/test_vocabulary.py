"""Bytes of tokens against what the tokenizers library decodes them to; which tokens of two vocabularies are the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, pre_tokenizers

from megatron_bielik.tokenizer.matching import match_vocabularies
from megatron_bielik.tokenizer.vocabulary import Vocabulary, VocabularyError, byte_alphabet, read_vocabulary
from tests.surgery.vocabularies import byte_level, save, sentencepiece_like, texts


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The SentencePiece-like and the byte-level tokenizer."""
    folder, made = tmp_path_factory.mktemp("tokenizers"), texts(120)
    return sentencepiece_like(folder / "new", made, 1200), byte_level(folder / "old", made[:60], 900)


def test_byte_alphabet() -> None:
    alphabet = byte_alphabet()
    assert sorted(alphabet.values()) == list(range(256))
    assert set(alphabet) == set(pre_tokenizers.ByteLevel.alphabet())
    encode = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str
    for character in ("a", " ", "\n", "ż", "😀", "\u00ad", "\u0100"):
        ((written, _),) = encode(character)
        assert bytes(alphabet[c] for c in written) == character.encode()


@pytest.mark.parametrize("kind", [0, 1])
def test_tokens_add_up_to_the_text(folders: tuple[Path, Path], kind: int) -> None:
    vocabulary, tokenizer = read_vocabulary(folders[kind]), Tokenizer.from_file(str(folders[kind] / "tokenizer.json"))
    assert len(vocabulary) == tokenizer.get_vocab_size()
    for text in (*texts(20, seed=9), "żółw 漢字 😀\n\n x  y\t123", "e\u0301"):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        joined = b"".join(vocabulary.data[number] or b"?" for number in ids)
        assert joined.removeprefix(b" " if kind == 0 else b"").decode() == text


def test_control_tokens_and_roles(folders: tuple[Path, Path]) -> None:
    new, old = map(read_vocabulary, folders)
    assert {text: new.control[text] for text in ("<unk>", "<s>", "</s>", "<|im_start|>")} == {
        "<unk>": 0, "<s>": 1, "</s>": 2, "<|im_start|>": 3,
    }  # fmt: skip
    assert new.roles == {"bos": 1, "eos": 2, "unk": 0, "pad": 2}
    assert len(new.byte_pieces) == 256
    assert old.roles["eos"] == old.control["<|endoftext|>"]
    assert "<tool_call>" in old.control
    assert not old.byte_pieces


def test_matching(folders: tuple[Path, Path]) -> None:
    new, old = map(read_vocabulary, folders)
    matches = match_vocabularies(new, old)

    def name(text: str) -> str | None:
        found = matches.get(new.tokens.index(text))
        return None if found is None else old.tokens[found]

    assert name("<s>") == name("</s>") == "<|endoftext|>"
    assert name("<|im_end|>") == "<|im_end|>"
    assert name("<tool_call>") == "<tool_call>"
    assert name("<unk>") is None
    assert name("</tool_call>") is None
    assert name("<0x0A>") == "Ċ"
    assert name("<0xC5>") == "Å"
    assert name("▁i") == "Ġi"
    for number, source in matches.items():
        if number not in new.control.values():
            assert new.data[number] == old.data[source]


def test_matching_a_vocabulary_with_itself(folders: tuple[Path, Path]) -> None:
    """A byte piece and a piece of the same byte keep apart."""
    for folder in folders:
        vocabulary = read_vocabulary(folder)
        matches = match_vocabularies(vocabulary, vocabulary)
        assert all(matches[number] == number for number in matches if number not in vocabulary.roles.values())
        assert len(matches) == len(vocabulary)


@pytest.mark.parametrize(
    ("chat_eos", "expected"), [("<|endoftext|>", "<|endoftext|>"), ("<|im_end|>", "<|endoftext|>")]
)
def test_the_end_of_a_document_is_not_the_end_of_a_turn(
    folders: tuple[Path, Path], tmp_path: Path, chat_eos: str, expected: str
) -> None:
    described = json.loads((folders[1] / "tokenizer.json").read_text())
    save(tmp_path, described, eos_token=chat_eos)
    old = read_vocabulary(tmp_path)
    assert old.tokens[match_vocabularies(read_vocabulary(folders[0]), old)[2]] == expected


def test_shown(folders: tuple[Path, Path]) -> None:
    new, old = map(read_vocabulary, folders)
    assert old.shown(old.tokens.index("Ġi")) == "▁i"
    assert old.shown(old.tokens.index("Ċ")) == "<U+000A>"
    assert old.shown(old.tokens.index("Å")) == "<0xC5>"
    assert new.shown(new.tokens.index("<0x0A>")) == "<0x0A>"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["tokenizer.json", "not found"]),
        ("{", ["damaged"]),
        ("[]", ["damaged", "no JSON object"]),
        ('{"model": {"type": "WordPiece"}}', ["WordPiece", "BPE"]),
        ('{"model": {"type": "BPE", "vocab": {"a": 0}}}', ["damaged", "added_tokens"]),
    ],
)
def test_errors(tmp_path: Path, content: str | None, words: list[str]) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(VocabularyError) as caught:
        read_vocabulary(tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_unigram(tmp_path: Path) -> None:
    model = {"type": "Unigram", "vocab": [["<unk>", 0.0], ["▁a", -1.0], ["b", -2.0]], "unk_id": 0}
    described = {"model": model, "added_tokens": [{"id": 0, "content": "<unk>", "special": True}]}
    save(tmp_path, described)
    found: Vocabulary = read_vocabulary(tmp_path)
    assert found.data == (None, b" a", b"b")
