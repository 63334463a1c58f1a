"""FOCUS against the authors' package, entmax and the formula; what is copied, combined and drawn."""

from __future__ import annotations

from pathlib import Path

import entmax
import pytest
import torch

from megatron_bielik.surgery.combinations import Combinations, Initialization, SourceMatrix, new_rows
from megatron_bielik.surgery.focus import TokenVectors, focus, similar_mixture, sparsemax
from megatron_bielik.surgery.methods import Initializer, Materials
from megatron_bielik.surgery.word_vectors import write_vectors
from tests.surgery.vocabularies import byte_level, sentencepiece_like, texts


def dense(support: tuple[torch.Tensor, torch.Tensor, torch.Tensor], columns: int) -> torch.Tensor:
    """Supports as a matrix."""
    sizes, places, weights = support
    out = torch.zeros(len(sizes), columns)
    out[torch.arange(len(sizes)).repeat_interleave(sizes), places] = weights
    return out


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 2), (5, 64), (4, 65), (20, 700), (3, 3000)])
@pytest.mark.parametrize("scale", [0.001, 0.2, 5.0])
def test_sparsemax_is_entmax(rows: int, columns: int, scale: float) -> None:
    """A small scale makes supports wider than what is looked at first, a large one makes them a single column."""
    scores = scale * torch.randn(rows, columns, generator=torch.Generator().manual_seed(columns))
    found = dense(sparsemax(scores), columns)
    torch.testing.assert_close(found.double(), entmax.sparsemax(scores.double(), dim=1), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.sum(1), torch.ones(rows))


def test_sparsemax_of_equal_scores() -> None:
    assert torch.equal(dense(sparsemax(torch.full((2, 300), 0.5)), 300), torch.full((2, 300), 1 / 300))


def test_mixture_does_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    new, anchors = torch.randn(50, 8, generator=generator), torch.randn(33, 8, generator=generator)
    whole = similar_mixture(new, anchors)
    monkeypatch.setattr("megatron_bielik.surgery.focus._BLOCK_BYTES", 4 * 33 * 7)
    parts = similar_mixture(new, anchors)
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])
    torch.testing.assert_close(whole[2], parts[2])


def test_rows_by_the_formula() -> None:
    """Five tokens: one copied, one combined, one whose vector is zero, one without, one shared token that is no anchor."""
    generator = torch.Generator().manual_seed(1)
    source = torch.randn(6, 16, generator=generator)
    vectors = TokenVectors(torch.tensor([0, 1, 2, 4]), torch.randn(4, 3, generator=generator))
    vectors.vectors[2] = 0
    made = focus(5, {0: 3, 4: 5}, {0}, vectors)
    rows = torch.cat(list(new_rows(made, SourceMatrix.of_tensor(source))))
    assert torch.equal(rows[0], source[3])
    assert torch.equal(rows[4], source[5])
    assert torch.equal(rows[1], source[3])  # the only anchor
    drawn, mean, std = torch.Generator().manual_seed(42), *SourceMatrix.of_tensor(source).moments(False)
    for token in (2, 3):
        assert torch.equal(rows[token], torch.normal(mean, std, generator=drawn))
    assert made.kinds() == ["copied", "copied", "random", "random", "copied"]


def test_moments() -> None:
    matrix = torch.randn(9000, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).float() + 3
    source = SourceMatrix.of_tensor(matrix, tokens=8999)
    mean, std = source.moments(False)
    torch.testing.assert_close(mean.double(), matrix[:8999].double().mean(0), atol=1e-6, rtol=0)
    torch.testing.assert_close(std.double(), matrix[:8999].double().std(0), atol=1e-6, rtol=0)
    assert torch.equal(source.moments(True)[1], matrix.std(0))


def test_blocks_of_new_tokens_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(3)
    source = SourceMatrix.of_tensor(torch.randn(400, 24, generator=generator))
    sources = {
        n: (torch.randint(400, (n % 5 + 1,), generator=generator), torch.rand(n % 5 + 1)) for n in range(0, 90, 2)
    }
    made = Initialization(Combinations.of(100, sources))
    whole = torch.cat(list(new_rows(made, source)))
    monkeypatch.setattr("megatron_bielik.surgery.combinations.BLOCK", 7)
    parts = list(new_rows(made, source))
    assert len(parts) == 15
    assert torch.equal(torch.cat(parts), whole)
    for token, (ids, weights) in sources.items():
        expected = (source.gather(torch.arange(400))[ids] * weights[:, None]).sum(0)
        torch.testing.assert_close(whole[token], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("ids", [[], [0], [3, 4, 90, 399], list(range(400)), [0, 33, 66], [7, 7, 8]])
def test_gather(ids: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("megatron_bielik.surgery.combinations._READ_ROWS", 50)
    matrix = torch.randn(400, 3, generator=torch.Generator().manual_seed(4), dtype=torch.bfloat16)
    assert torch.equal(SourceMatrix.of_tensor(matrix).gather(torch.tensor(ids, dtype=torch.int64)), matrix[ids].float())


class TestDeepfocus:
    """The package deepfocus itself on two tokenizers, one byte-level and one SentencePiece-like, and given vectors."""

    @pytest.fixture(scope="class")
    def folders(self, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
        """The new and the old tokenizer."""
        folder = tmp_path_factory.mktemp("tokenizers")
        made = texts(200)
        return sentencepiece_like(folder / "new", made, 1500), byte_level(folder / "old", made[:100], 1200)

    def test_agrees(self, folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import deepfocus.focus as theirs
        from transformers import AutoTokenizer

        new, old = (AutoTokenizer.from_pretrained(folder) for folder in folders)
        generator = torch.Generator().manual_seed(6)
        names = [name for name in sorted(new.get_vocab()) if hash_of(name) % 7]  # some tokens have no vector
        vectors = torch.randn(len(names), 20, generator=generator)
        vectors[::50] = 0  # and some a useless one
        source = 0.05 * torch.randn(len(old) + 12, 40, generator=generator) + 0.01  # padded, as Qwen2.5's
        by_name = dict(zip(names, vectors.numpy(), strict=True))
        monkeypatch.setattr(theirs, "load_target_token_embedding", lambda **_: by_name)
        wanted = theirs.FOCUS(
            target_tokenizer=new, source_tokenizer=old, source_embeddings=source, fasttext_model_path="given",
            verbosity="silent",
        )  # fmt: skip

        write_vectors(tmp_path / "vectors.npz", names, vectors.numpy())
        given = Materials(folders[1], folders[0], tmp_path, vectors=tmp_path / "vectors.npz", reference=True)
        initializer = Initializer(given)
        made = initializer.build("focus")
        found = torch.cat(list(new_rows(made, SourceMatrix.of_tensor(source, len(initializer.source)))))
        kinds = made.kinds()
        assert {kind: kinds.count(kind) for kind in ("copied", "combined", "random")}.keys() == set(kinds)
        assert min(kinds.count(kind) for kind in set(kinds)) > 50
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
        for token, kind in enumerate(kinds):
            if kind in ("random", "copied"):
                assert torch.equal(found[token], wanted[token]), (token, kind)

    def test_byte_identical_tokens_are_mapped(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        """By ours all of them; by the published rule not all, or it would need no other."""
        ours, published = (
            Initializer(Materials(folders[1], folders[0], tmp_path, reference=reference)) for reference in (False, True)
        )
        target, source = ours.target, ours.source
        theirs = {data: number for number, data in reversed(list(enumerate(source.data))) if data is not None}
        identical = {
            number: theirs[data] for number, data in enumerate(target.data)
            if data in theirs and number not in target.control.values()
        }  # fmt: skip
        assert len(identical) > 500
        assert identical.items() <= ours.matches.items()
        assert not identical.items() <= published.matches.items()


def hash_of(name: str) -> int:
    """The same in every process, unlike hash()."""
    return sum(map(ord, name))
