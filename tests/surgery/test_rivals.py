"""Each rival method against its definition on a hand-made or small case."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from megatron_bielik.surgery import rivals
from megatron_bielik.surgery.combinations import SourceMatrix, new_rows
from megatron_bielik.surgery.focus import TokenVectors
from megatron_bielik.surgery.methods import nearest
from megatron_bielik.surgery.word_vectors import DictionaryEntry, WordVectors
from megatron_bielik.tokenizer.matching import match_vocabularies
from megatron_bielik.tokenizer.vocabulary import Vocabulary, read_vocabulary
from tests.surgery.vocabularies import byte_level, sentencepiece_like, texts


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Vocabulary, Vocabulary, Tokenizer, Tokenizer]:
    """New and old vocabulary, and their encoders."""
    folder, made = tmp_path_factory.mktemp("tokenizers"), texts(120)
    folders = sentencepiece_like(folder / "new", made, 1500), byte_level(folder / "old", made[:60], 700)
    encoders = (Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in folders)
    return *map(read_vocabulary, folders), *encoders  # type: ignore[return-value]


def rows_of(made: rivals.Initialization, source: torch.Tensor) -> torch.Tensor:
    return torch.cat(list(new_rows(made, SourceMatrix.of_tensor(source))))


def source_rows(count: int, hidden: int = 12) -> torch.Tensor:
    return torch.randn(count, hidden, generator=torch.Generator().manual_seed(count)) + 1


def test_random_and_mean() -> None:
    source = source_rows(5000)
    drawn = rows_of(rivals.random(4000), source)
    torch.testing.assert_close(drawn.mean(0), source.mean(0), atol=0.1, rtol=0)
    torch.testing.assert_close(drawn.std(0), source.std(0), atol=0.1, rtol=0)
    assert len(drawn.unique(dim=0)) == 4000
    torch.testing.assert_close(rows_of(rivals.mean(7), source), source.mean(0).expand(7, -1))


def test_fvt(pair: tuple[Vocabulary, Vocabulary, Tokenizer, Tokenizer]) -> None:
    new, old, _, encoder = pair
    source, matches = source_rows(len(old)), match_vocabularies(new, old)
    rows = rows_of(rivals.fvt(new, old, matches, encoder), source)
    split = 0
    for token, data in enumerate(new.data):
        if token in matches:
            assert torch.equal(rows[token], source[matches[token]])
        elif data:
            ids = encoder.encode(data.decode(), add_special_tokens=False).ids
            assert b"".join(old.data[number] for number in ids) == data  # type: ignore[misc]
            torch.testing.assert_close(rows[token], source[ids].mean(0))
            split += 1
    assert split > 100


def test_linear_finds_an_affine_map() -> None:
    """Where the rows are an affine map of the vectors, every new row is exactly that map's."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(300, 6, generator=generator)
    weight, bias = torch.randn(6, 10, generator=generator), torch.randn(10, generator=generator)
    source = torch.randn(1000, 10, generator=generator)
    matches = {token: 999 - token for token in range(200)}
    source[[matches[token] for token in range(200)]] = vectors[:200] @ weight + bias
    made = rivals.linear(310, matches, set(matches), TokenVectors(torch.arange(300), vectors))
    rows = rows_of(made, source)
    torch.testing.assert_close(rows[:300], vectors @ weight + bias, atol=1e-4, rtol=1e-4)
    assert made.kinds().count("predicted") == 100
    assert made.kinds().count("random") == 10


def test_linear_without_anchors_is_random() -> None:
    made = rivals.linear(4, {}, set(), TokenVectors(torch.arange(4), torch.ones(4, 2)))
    assert made.kinds() == ["random"] * 4


def test_wechsel_and_ofa() -> None:
    generator = torch.Generator().manual_seed(1)
    ours = TokenVectors(torch.tensor([0, 2, 3]), torch.randn(3, 5, generator=generator))
    theirs = TokenVectors(torch.arange(2, 42), torch.randn(40, 5, generator=generator))
    source = source_rows(50)
    cosine = torch.nn.functional.cosine_similarity(ours.vectors[:, None], theirs.vectors[None], dim=-1)
    near, ids = cosine.sort(dim=1, descending=True)
    weights = (near[:, :10] / 0.1).softmax(1)
    mixed = torch.einsum("nk,nkh->nh", weights, source[ids[:, :10] + 2])
    rows = rows_of(rivals.wechsel(4, {3: 7}, ours, theirs), source)
    torch.testing.assert_close(rows[[0, 2]], mixed[:2])
    assert torch.equal(rows[3], source[7])
    shared = rivals.ofa(4, {0: 9}, ours, theirs)
    rows = rows_of(shared, source)
    assert torch.equal(rows[0], source[9])
    torch.testing.assert_close(rows[[2, 3]], mixed[1:])
    projected = rows_of(rivals.ofa(4, {0: 9}, ours, theirs, factorized_dim=3), source)
    directions = torch.linalg.svd(source, full_matrices=False).Vh[:3].T
    torch.testing.assert_close(projected[[2, 3]], mixed[1:] @ directions @ directions.T, atol=1e-4, rtol=1e-4)
    assert torch.equal(projected[0], source[9])


def test_token_vectors(pair: tuple[Vocabulary, Vocabulary, Tokenizer, Tokenizer]) -> None:
    encoder = pair[2]
    words = WordVectors(("dom", "domu"), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    ids = [set(encoder.encode(f" {word}", add_special_tokens=False).ids) for word in words.words]
    for zipf, share in ((False, [0.5, 0.5]), (True, [2 / 3, 1 / 3])):
        found = rivals.token_vectors(words, encoder, zipf)
        by_token = dict(zip(found.tokens.tolist(), found.vectors, strict=True))
        assert set(by_token) == ids[0] | ids[1]
        for token, vector in by_token.items():
            expected = share if token in ids[0] & ids[1] else [1.0, 0.0] if token in ids[0] else [0.0, 1.0]
            torch.testing.assert_close(vector, torch.tensor(expected))


def test_ramen(pair: tuple[Vocabulary, Vocabulary, Tokenizer, Tokenizer]) -> None:
    new, old, ours, theirs = pair
    source, matches = source_rows(len(old)), match_vocabularies(new, old)
    entries = [DictionaryEntry("kot", "cat", 0.75), DictionaryEntry("kot", "tomcat", 0.25)]
    rows = rows_of(rivals.ramen(new, matches, entries, ours, theirs), source)
    shares = torch.zeros(len(old))
    for word, probability in (("cat", 0.75), ("tomcat", 0.25)):
        ids = [n for text in (word, f" {word}") for n in theirs.encode(text, add_special_tokens=False).ids]
        for number in ids:
            shares[number] += probability / len(ids)
    expected = (shares[:, None] * source).sum(0) / shares.sum()
    reached = {n for text in ("kot", " kot") for n in ours.encode(text, add_special_tokens=False).ids}
    for token in reached:
        torch.testing.assert_close(rows[token], expected, atol=1e-5, rtol=1e-5)
    for token, number in matches.items():
        if token not in reached:
            assert torch.equal(rows[token], source[number])


def test_nearest() -> None:
    source, rows = source_rows(100), source_rows(6)
    cosine = torch.nn.functional.cosine_similarity(rows[:, None], source[None], dim=-1)
    wanted, places = cosine.topk(3, dim=1)
    ids, near = nearest(rows, source.split(17), 3)
    assert torch.equal(ids, places)
    torch.testing.assert_close(near, wanted)


def test_bytes_without_text(pair: tuple[Vocabulary, Vocabulary, Tokenizer, Tokenizer], tmp_path: Path) -> None:
    """A new token that is half a character becomes the mean of the source's bytes."""
    _, old, _, encoder = pair
    half = Vocabulary(tmp_path, ("x",), ("漢".encode()[:2],), frozenset(), {}, {})
    made = rivals.fvt(half, old, {}, encoder)
    found = {old.data[number] for number, _ in made.combinations.sources_of(0)}
    assert found == {bytes([byte]) for byte in "漢".encode()[:2]}
