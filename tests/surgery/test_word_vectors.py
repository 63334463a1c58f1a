"""Files that users bring: what is read, and that anything else is told in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from megatron_bielik.surgery.safetensors_files import ConversionError
from megatron_bielik.surgery.word_vectors import DictionaryEntry, read_dictionary, read_word_vectors, write_vectors

WORDS, MATRIX = ["dom", "żółw", "a\u00a0b"], np.array([[1.5, -2, 0], [0.25, 3, 1], [0, 0, 1e-3]], dtype=np.float32)
LINES = ["dom 1.5 -2 0", "żółw 0.25 3 1 ", "a\u00a0b 0 0 1e-3"]


@pytest.mark.parametrize("kind", ["with a header", "without", "npz"])
@pytest.mark.parametrize("limit", [None, 2])
def test_forms(kind: str, limit: int | None, tmp_path: Path) -> None:
    path = tmp_path / ("v.npz" if kind == "npz" else "v.vec")
    if kind == "npz":
        write_vectors(path, WORDS, MATRIX)
    else:
        path.write_text("\n".join((["3 3"] if kind == "with a header" else []) + LINES) + "\n", encoding="utf-8")
    found = read_word_vectors(path, limit)
    assert list(found.words) == WORDS[:limit]
    assert torch.equal(found.vectors, torch.from_numpy(MATRIX[:limit]))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_fasttext_model(tmp_path: Path) -> None:
    import fasttext

    (tmp_path / "text").write_text("ala ma kota\n" * 20, encoding="utf-8")
    model = fasttext.train_unsupervised(str(tmp_path / "text"), dim=3, minCount=1, bucket=100, thread=1, verbose=0)
    model.save_model(str(tmp_path / "model.bin"))
    found = read_word_vectors(tmp_path / "model.bin")
    assert set(found.words) >= {"ala", "ma", "kota"}
    place = found.words.index("kota")
    assert torch.equal(found.vectors[place], torch.from_numpy(model.get_word_vector("kota")))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("v.vec", b""),
        ("v.vec", b"3 3\n"),
        ("v.vec", b"dom 1 2\nkot 1\n"),
        ("v.vec", b"dom 1 x\n"),
        ("v.vec", b"dom 1 nan\n"),
        ("v.vec", b"dom\n"),
        ("v.vec", b"\xff\xfe\n"),
        ("v.npz", b"PK\x03\x04"),
        ("v.npz", b""),
        ("v.bin", b"no model"),
        ("v.bin", b""),
    ],
)
def test_damaged(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConversionError, match=name) as caught:
        read_word_vectors(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_pickles_are_refused(tmp_path: Path) -> None:
    words = np.array([["dom", 1], "kot"], dtype=object)
    np.savez(tmp_path / "v.npz", words=words, vectors=np.zeros((2, 2)))
    with pytest.raises(ConversionError, match="allow_pickle"):
        read_word_vectors(tmp_path / "v.npz")


def test_words_and_vectors_of_other_numbers(tmp_path: Path) -> None:
    write_vectors(tmp_path / "v.npz", WORDS, MATRIX[:2])
    with pytest.raises(ConversionError, match=r"3 words, vectors of shape \[2, 3\]"):
        read_word_vectors(tmp_path / "v.npz")


@pytest.mark.parametrize("name", ["v.vec", "v.npz", "v.bin", "d.tsv"])
def test_missing(name: str, tmp_path: Path) -> None:
    read = read_dictionary if name == "d.tsv" else read_word_vectors
    with pytest.raises(ConversionError, match=name):
        read(tmp_path / name)


def test_dictionary(tmp_path: Path) -> None:
    path = tmp_path / "d.tsv"
    path.write_text("kot\tcat\t0.75\n\nżaba\tfrog\nkot \t tomcat\t2\n", encoding="utf-8")
    wanted = [("kot", "cat", 0.75), ("żaba", "frog", 1.0), ("kot", "tomcat", 2.0)]
    assert read_dictionary(path) == [DictionaryEntry(*entry) for entry in wanted]


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ("kot\n", "line 1"),
        ("kot\tcat\nkot\tcat\tmany\n", "line 2"),
        ("kot\tcat\t0\n", "line 1"),
        ("\tcat\n", "line 1"),
        ("kot\tcat\t1\t2\n", "line 1"),
        ("", "empty"),
        ("\n\n", "empty"),
    ],
)
def test_damaged_dictionary(content: str, where: str, tmp_path: Path) -> None:
    (tmp_path / "d.tsv").write_text(content, encoding="utf-8")
    with pytest.raises(ConversionError, match=where) as caught:
        read_dictionary(tmp_path / "d.tsv")
    assert "d.tsv" in str(caught.value)
    assert "\n" not in str(caught.value)
