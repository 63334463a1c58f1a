"""fastText over tokens: the same vectors every time, kept in a cache, named so that any token can be a word."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from megatron_bielik.surgery import auxiliary_vectors
from megatron_bielik.surgery.auxiliary_vectors import (
    FastTextOptions,
    corpus_key,
    token_name,
    train_vectors,
    vectors_by_name,
)
from megatron_bielik.surgery.safetensors_files import ConversionError
from megatron_bielik.surgery.word_vectors import WordVectors
from megatron_bielik.tokenizer.vocabulary import Vocabulary, read_vocabulary
from tests.surgery.vocabularies import sentencepiece_like, texts

SMALL = FastTextOptions(dim=8, epoch=1, minCount=3, bucket=1000)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    return read_vocabulary(sentencepiece_like(tmp_path_factory.mktemp("tokenizer"), texts(60), 700))


def vocabulary_of(*tokens: str | None) -> Vocabulary:
    return Vocabulary(Path("made-up"), tokens, tuple(t and t.encode() for t in tokens), frozenset(), {}, {})


def test_the_same_text_gives_the_same_vectors(vocabulary: Vocabulary, tmp_path: Path) -> None:
    one, two = (train_vectors(vocabulary, texts(60), "key", SMALL, tmp_path / name) for name in ("a", "b"))
    assert torch.equal(one.tokens, two.tokens)
    assert torch.equal(one.vectors, two.vectors)
    assert one.vectors.shape == (len(one.tokens), 8)
    assert len(one.tokens) > 200
    first, second = (next((tmp_path / name).iterdir()).read_bytes() for name in ("a", "b"))
    assert first == second


def test_tokens_seen_too_rarely_have_none(vocabulary: Vocabulary, tmp_path: Path) -> None:
    text, tokenizer = texts(20), auxiliary_vectors.Tokenizer.from_file(str(vocabulary.folder / "tokenizer.json"))
    counts = torch.zeros(len(vocabulary), dtype=torch.int64)
    for encoding in tokenizer.encode_batch(text, add_special_tokens=False):
        counts += torch.bincount(torch.tensor(encoding.ids), minlength=len(counts))
    found = train_vectors(vocabulary, text, "key", SMALL, tmp_path)
    assert torch.equal(found.tokens, (counts >= SMALL.minCount).nonzero().flatten())


def test_trained_once_for_a_key(vocabulary: Vocabulary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []
    train = auxiliary_vectors._train

    def counted(*arguments: object) -> object:
        trained.append(arguments)
        return train(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(auxiliary_vectors, "_train", counted)
    first = train_vectors(vocabulary, texts(30), "one", SMALL, tmp_path)
    again = train_vectors(vocabulary, [], "one", SMALL, tmp_path)
    assert torch.equal(first.vectors, again.vectors)
    assert len(trained) == 1
    train_vectors(vocabulary, texts(30), "two", SMALL, tmp_path)
    train_vectors(vocabulary, texts(30), "one", FastTextOptions(dim=8, epoch=2, minCount=3, bucket=1000), tmp_path)
    assert len(trained) == 3
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_corpus_key(tmp_path: Path) -> None:
    """Content counts, not names: a file that was changed in place must not give the old vectors."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("a")
    two.write_text("a")
    assert corpus_key([one], "text") == corpus_key([two], "text")
    assert corpus_key([one], "text") != corpus_key([one], "content")
    assert corpus_key([one, two], "text") != corpus_key([one], "text")
    before = corpus_key([one], "text")
    one.write_text("b")
    assert corpus_key([one], "text") != before


def test_names_hold_no_separator() -> None:
    """fastText ends a word at white space: tokens with it in them must still be words, and different ones."""
    made = vocabulary_of("a b", "a\tb", "\n", "\r", "\u00a0", "▁dom", None, "\0")
    names = [token_name(made, number) for number in range(len(made))]
    assert len(set(names)) == len(names)
    assert not any(set(name) & set("\0\t\n\v\f\r ") for name in names)
    assert names[5] == "▁dom"


def test_vectors_are_found_by_token_or_name() -> None:
    made = vocabulary_of("dom", "a b", "nie", None)
    words = WordVectors(("a␠b", "dom", "inne"), torch.arange(6.0).view(3, 2))
    found = vectors_by_name(made, words)
    assert found.tokens.tolist() == [0, 1]
    assert found.vectors.tolist() == [[2.0, 3.0], [0.0, 1.0]]
    with pytest.raises(ConversionError, match="none of the 1 vectors belongs to a token"):
        vectors_by_name(made, WordVectors(("kot",), torch.ones(1, 2)))


@pytest.mark.parametrize("text", [[], ["dom"], [" "]])
def test_too_little_text(vocabulary: Vocabulary, text: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="no token occurs 10 times in the corpus: give more text, or --vectors"):
        train_vectors(vocabulary, text, "key", FastTextOptions(dim=4, bucket=100), tmp_path)
    assert list(tmp_path.iterdir()) == []
