"""Token shards: agreement with megatron-core's reader and writer at the edges, damage, merging, failed writes."""

from __future__ import annotations

import errno
import pickle
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder

from megatron_bielik.data import shards
from megatron_bielik.data.errors import DataError
from megatron_bielik.data.shards import ShardReader, ShardWriter, merge_shards

EDGES: dict[str, list[list[int]]] = {
    "no documents": [],
    "only empty documents": [[], []],
    "one token": [[5]],
    "empty between": [[1, 2, 3], [], [4], []],
    "empty first": [[], [7, 8]],
}


def write(prefix: Path, documents: Sequence[Sequence[int]], vocab_size: int = 100) -> Path:
    with ShardWriter(prefix, vocab_size) as writer:
        for document in documents:
            writer.add_document(document)
    return prefix


def as_lists(reader: Any) -> list[list[int]]:
    return [reader[i].tolist() for i in range(len(reader))]


@pytest.mark.parametrize("vocab_size", [100, 65_499, 65_500, 152_000])
@pytest.mark.parametrize("name", EDGES)
def test_megatron_reads_ours_and_we_read_megatrons(tmp_path: Path, name: str, vocab_size: int) -> None:
    documents = [[token if token != 5 else vocab_size - 1 for token in document] for document in EDGES[name]]
    ours = write(tmp_path / "ours", documents, vocab_size)
    theirs = IndexedDataset(str(ours))
    assert as_lists(theirs) == documents
    assert theirs.document_indices.tolist() == list(range(len(documents) + 1))
    assert theirs.index.dtype == (np.uint16 if vocab_size < 65_500 else np.int32)

    builder = IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=shards.token_dtype(vocab_size))
    for document in documents:
        builder.add_document(np.array(document, dtype=np.int64), [len(document)])
    builder.finalize(str(tmp_path / "theirs.idx"))
    reader = ShardReader(tmp_path / "theirs")
    assert as_lists(reader) == documents
    assert reader.num_tokens == sum(map(len, documents))
    assert (tmp_path / "theirs.idx").read_bytes() == (tmp_path / "ours.idx").read_bytes()
    if reader.num_tokens:
        assert (tmp_path / "theirs.bin").read_bytes() == (tmp_path / "ours.bin").read_bytes()


def test_megatrons_documents_of_several_sequences_are_read(tmp_path: Path) -> None:
    builder = IndexedDatasetBuilder(str(tmp_path / "a.bin"), dtype=np.int64)
    builder.add_document(np.array([1, 2, 3]), [2, 1])
    builder.add_document(np.array([], dtype=np.int64), [])
    builder.finalize(str(tmp_path / "a.idx"))
    reader = ShardReader(tmp_path / "a")
    assert as_lists(reader) == [[1, 2], [3]]
    assert reader.document_indices.tolist() == [0, 2, 2]
    reader.verify(vocab_size=4)


@settings(max_examples=50, deadline=None)
@given(documents=st.lists(st.lists(st.integers(0, 99), max_size=20), max_size=30), cut=st.integers(0, 30))
def test_batches_and_merges_give_what_single_documents_give(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]], cut: int
) -> None:
    folder = tmp_path_factory.mktemp("merge")
    whole = write(folder / "whole", documents)
    with ShardWriter(folder / "batch", 100) as writer:
        flat = np.array([token for document in documents for token in document], dtype=np.uint32)
        writer.add_batch(flat, np.array([len(document) for document in documents], dtype=np.int64))
    parts = [write(folder / "a", documents[:cut]), write(folder / "b", documents[cut:])]
    merge_shards(parts, folder / "merged")
    for suffix in (".bin", ".idx"):
        expected = Path(f"{whole}{suffix}").read_bytes()
        assert (folder / f"batch{suffix}").read_bytes() == expected
        assert (folder / f"merged{suffix}").read_bytes() == expected
    ShardReader(whole).verify(100)


def test_chunked_index_equals_unchunked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [[i % 90] * (i % 7) for i in range(100)]
    write(tmp_path / "a", documents)
    monkeypatch.setattr(shards, "_CHUNK", 8)
    monkeypatch.setattr(shards, "_COPY_BYTES", 16)
    write(tmp_path / "b", documents)
    merge_shards([tmp_path / "b"], tmp_path / "c")
    ShardReader(tmp_path / "c").verify(100)
    for name in ("b", "c"):
        assert (tmp_path / f"{name}.idx").read_bytes() == (tmp_path / "a.idx").read_bytes()
        assert (tmp_path / f"{name}.bin").read_bytes() == (tmp_path / "a.bin").read_bytes()


@pytest.mark.parametrize(("tokens", "bad"), [([1, 100], "100"), ([-1, 2], "-1")])
def test_an_id_outside_the_vocabulary_is_refused(tmp_path: Path, tokens: list[int], bad: str) -> None:
    with pytest.raises(DataError, match=rf"token ID {bad} is outside \[0, 100\)"):
        write(tmp_path / "a", [[3], tokens])
    assert list(tmp_path.iterdir()) == []


def test_wrong_lengths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="lengths add up to 3, but 2 tokens"), ShardWriter(tmp_path / "a", 9) as writer:
        writer.add_batch(np.array([1, 2]), np.array([3]))
    with pytest.raises(DataError, match="is not open for writing"):
        ShardWriter(tmp_path / "a", 9).add_document([1])


def test_an_exception_leaves_the_old_shard_alone(tmp_path: Path) -> None:
    write(tmp_path / "a", [[1, 2]])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def interrupted() -> None:
        with ShardWriter(tmp_path / "a", 100) as writer:
            writer.add_document([9])
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        interrupted()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(stream: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shards, "_sync_and_close", no_space)
    with pytest.raises(DataError, match="the disk is full; nothing was left"):
        write(tmp_path / "a", [[1]])
    assert list(tmp_path.iterdir()) == []


def damage(path: Path, at: int, data: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[at : at + len(data)] = data
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("at", "data", "message"),
    [
        (0, b"NOTANIDX!", "begins with b'NOTANIDX!'"),
        (9, struct.pack("<Q", 2), "has version 2, only 1 is known"),
        (17, b"\x0b", "has dtype code 11"),
        (18, struct.pack("<Q", 50), "50 sequences and 4 document entries need"),
        (-8, struct.pack("<q", 1), "documents do not end at sequence 3"),
    ],
)
def test_a_damaged_index_is_named(tmp_path: Path, at: int, data: bytes, message: str) -> None:
    write(tmp_path / "a", [[1, 2], [3], [4]])
    index = tmp_path / "a.idx"
    damage(index, at % index.stat().st_size, data)
    with pytest.raises(DataError, match=message):
        ShardReader(tmp_path / "a")


def test_sizes_must_fit(tmp_path: Path) -> None:
    write(tmp_path / "a", [[1, 2], [3]])
    data = tmp_path / "a.bin"
    data.write_bytes(data.read_bytes()[:-2])
    with pytest.raises(DataError, match=r"a\.bin has 4 bytes, its index needs 6"):
        ShardReader(tmp_path / "a")
    data.unlink()
    with pytest.raises(DataError, match=r"a\.bin not found"):
        ShardReader(tmp_path / "a")
    (tmp_path / "a.idx").write_bytes(b"MMIDIDX")
    data.write_bytes(b"")
    with pytest.raises(DataError, match="it is truncated"):
        ShardReader(tmp_path / "a")


def test_verify_finds_what_opening_cannot(tmp_path: Path) -> None:
    write(tmp_path / "a", [[1, 2], [3], [4]])
    ShardReader(tmp_path / "a").verify(5)
    with pytest.raises(DataError, match=r"an ID outside \[0, 4\)"):
        ShardReader(tmp_path / "a").verify(4)
    damage(tmp_path / "a.idx", 34 + 12 + 8, struct.pack("<q", 2))
    with pytest.raises(DataError, match="the pointer of sequence 1 does not follow"):
        ShardReader(tmp_path / "a").verify()


def test_merging_refuses_what_does_not_fit(tmp_path: Path) -> None:
    small, large = write(tmp_path / "a", [[1]], 100), write(tmp_path / "b", [[1]], 70_000)
    with pytest.raises(DataError, match="holds int32"):
        merge_shards([small, large], tmp_path / "c")
    with pytest.raises(DataError, match="is also an input"):
        merge_shards([small], small)
    with pytest.raises(DataError, match="needs at least one prefix"):
        merge_shards([], tmp_path / "c")
    assert not (tmp_path / "c.bin").exists()


def test_a_reader_is_pickled_as_its_path(tmp_path: Path) -> None:
    reader = ShardReader(write(tmp_path / "a", [[1, 2]] * 1000))
    data = pickle.dumps(reader)
    assert len(data) < 1000
    assert as_lists(pickle.loads(data)) == [[1, 2]] * 1000
    assert reader[-1].tolist() == [1, 2]
    with pytest.raises(IndexError, match="the shard has 1000"):
        reader[1000]
