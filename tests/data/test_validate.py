"""Validation of shards: every kind of damage is found and its document named, and nothing is found where there is none."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

from megatron_bielik.data import validate as module
from megatron_bielik.data.manifest import Manifest, entry_of, manifest_path, write_manifest
from megatron_bielik.data.shards import ShardWriter
from megatron_bielik.data.validate import Checked, validate

TOOL = Path(__file__).parents[2] / "tools" / "validate_shards.py"
DOCUMENTS = [[5, 6, 2], [7, 2], [2], [9, 9, 9, 9, 2], [3, 2]]


def write(prefix: Path, documents: list[list[int]], vocab_size: int = 10, eod: int | None = 2) -> Path:
    with ShardWriter(prefix, vocab_size, checksum=True) as writer:
        for document in documents:
            writer.add_document(document)
    entry = entry_of(prefix, writer.bin_sha256)
    dtype, end = writer.dtype.__name__, (eod is not None, eod or 0, "</s>")
    manifest = Manifest(
        (entry,), entry.documents, entry.tokens, dtype, vocab_size, *end, "t", "abc", None, [{"path": "a", "bytes": 1}]
    )
    write_manifest(prefix, manifest)
    return prefix


def one(name: Path, **options: object) -> Checked:
    (found,) = validate([name], **options)  # type: ignore[arg-type]
    return found


def patch(path: Path, at: int, data: bytes) -> None:
    content = bytearray(path.read_bytes())
    at %= len(content)
    content[at : at + len(data)] = data
    path.write_bytes(content)


@pytest.mark.parametrize("vocab_size", [10, 70_000])
@pytest.mark.parametrize("documents", [DOCUMENTS, [], [[4, 2]], [[2]] * 1000])
def test_good_shards_are_good(tmp_path: Path, documents: list[list[int]], vocab_size: int) -> None:
    prefix = write(tmp_path / "a.b", documents, vocab_size)
    for name in (prefix, manifest_path(prefix), Path(f"{prefix}.bin")):
        found = one(name)
        assert found.fault == (None if documents else f"{prefix} holds no token: nothing can be trained on it")
        assert (found.documents, found.tokens) == (len(documents), sum(map(len, documents)))
        assert (found.vocabulary, found.eod_id, found.checksums) == (vocab_size, 2, bool(documents))
    manifest_path(prefix).unlink()
    found = one(prefix)
    assert (found.vocabulary, found.eod_id, found.checksums) == (None, None, False)
    assert (found.fault is None) == bool(documents)


def change_idx(at: int, data: bytes) -> Callable[[Path], None]:
    return lambda prefix: patch(Path(f"{prefix}.idx"), at, data)


def change_bin(at: int, data: bytes) -> Callable[[Path], None]:
    return lambda prefix: patch(Path(f"{prefix}.bin"), at, data)


def cut(suffix: str, size: int) -> Callable[[Path], None]:
    return lambda prefix: os.truncate(f"{prefix}{suffix}", Path(f"{prefix}{suffix}").stat().st_size + size)


LENGTHS, POINTERS, INDICES = 34, 34 + 4 * 5, 34 + 12 * 5
DAMAGE = [
    (lambda prefix: Path(f"{prefix}.bin").unlink(), "a.bin not found"),
    (lambda prefix: Path(f"{prefix}.idx").write_bytes(b""), "a.idx has 0 bytes"),
    (cut(".bin", -2), "a.bin has 24 bytes, its index needs 26"),
    (cut(".bin", 2), "a.bin has 28 bytes, its index needs 26"),
    (cut(".idx", -1), "it is truncated or damaged"),
    (change_idx(0, b"X"), "it is not an index"),
    (change_idx(9, b"\x03"), "has version 3"),
    (change_idx(17, b"\x63"), "has dtype code 99"),
    (change_idx(17, b"\x03"), "dtype is int16, its manifest says uint16"),
    (change_idx(LENGTHS + 4, struct.pack("<i", -1)), "document 1 has a negative length"),
    (change_idx(LENGTHS + 8, struct.pack("<i", 2)), "the pointer of document 3 does not follow"),
    (change_idx(POINTERS + 8, struct.pack("<q", 4)), "the pointer of document 1 does not follow"),
    (change_idx(INDICES, struct.pack("<q", 1)), "document 0 begins with sequence 1"),
    (change_idx(INDICES + 16, struct.pack("<q", 0)), "document 2 begins with sequence 0, before the one before it"),
    (change_bin(6, struct.pack("<H", 10)), "token ID 10 in document 1 is outside [0, 10)"),
    (change_bin(-2, struct.pack("<H", 65_535)), "token ID 65535 in document 4 is outside [0, 10)"),
    (change_bin(20, struct.pack("<H", 3)), "document 3 does not end with token 2"),
    (change_bin(0, struct.pack("<H", 4)), "a.bin: the SHA-256 is"),
]


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize(("damage", "fault"), DAMAGE)
def test_damage_is_found(
    tmp_path: Path, damage: Callable[[Path], None], fault: str, blocks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if blocks:
        monkeypatch.setattr(module, "_ENTRIES", 2)
        monkeypatch.setattr(module, "_BLOCK_BYTES", 6)
    prefix = write(tmp_path / "a", DOCUMENTS)
    assert one(prefix).fault is None
    damage(prefix)
    found = one(prefix)
    assert fault in str(found.fault)
    assert "\n" not in str(found.fault)
    assert not found.checksums


def test_a_wrong_manifest_is_found(tmp_path: Path) -> None:
    prefix = write(tmp_path / "a", DOCUMENTS)
    path = manifest_path(prefix)
    content = json.loads(path.read_text())
    content["shards"][0]["idx_sha256"] = "0" * 64
    path.write_text(json.dumps(content))
    assert "a.idx: the SHA-256 is" in str(one(prefix).fault)
    assert one(prefix, checksums=False).fault is None
    content["tokens"] += 1
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="says 14 tokens, its shards add up to 13"):
        one(prefix)
    content["tokens"] -= 1
    content["shards"][0]["documents"] = content["documents"] = 9
    path.write_text(json.dumps(content))
    assert "documents is 5, its manifest says 9" in str(one(prefix).fault)
    for text in ("{}", "[", '{"format": 7}', "[]"):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"a\.manifest\.json (is no manifest|has another format)"):
            one(prefix)


def test_an_empty_document_has_no_end(tmp_path: Path) -> None:
    cases: list[tuple[list[list[int]], int]] = [([[2], [], [2]], 1), ([[]], 0), ([[3, 2], [2], []], 2)]
    for documents, number in cases:
        assert f"document {number} does not end with token 2" in str(one(write(tmp_path / "a", documents)).fault)
    assert one(write(tmp_path / "a", [[2], [], [3]], eod=None)).fault is None


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(st.lists(st.integers(0, 4), max_size=4), max_size=3), max_size=8),
    st.integers(1, 3),
    st.integers(1, 5),
)
def test_documents_of_several_sequences(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[list[int]]], entries: int, tokens: int
) -> None:
    """Against a plain loop: shards of megatron-core's builder, first fault by document."""
    prefix = tmp_path_factory.getbasetemp() / "several"
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=np.uint16)
    for document in documents:
        tokens_of = [token for sequence in document for token in sequence]
        builder.add_document(np.array(tokens_of, dtype=np.int64), [len(sequence) for sequence in document])
    builder.finalize(f"{prefix}.idx")
    entry = entry_of(prefix, "")
    write_manifest(
        prefix, Manifest((entry,), entry.documents, entry.tokens, "uint16", 5, True, 2, "</s>", "t", "abc", None, [])
    )
    flat = [[token for sequence in document for token in sequence] for document in documents]
    wrong = [number for number, document in enumerate(flat) if not document or document[-1] != 2]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "_ENTRIES", entries)
        patched.setattr(module, "_BLOCK_BYTES", 2 * tokens)
        found = one(prefix, checksums=False)
    if wrong:
        assert f"document {wrong[0]} does not end" in str(found.fault)
    elif not flat:
        assert "holds no token" in str(found.fault)
    else:
        assert found.fault is None


def test_the_command(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", DOCUMENTS), write(tmp_path / "b", DOCUMENTS)

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(TOOL), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    done = call(a, f"{b}.idx")
    assert (done.returncode, done.stdout.count("\n"), done.stderr) == (0, 2, "")
    assert "good, 5 documents, 13 tokens" in done.stdout
    patch(Path(f"{a}.bin"), 0, b"\x0b\x00")
    done = call(a, b)
    assert done.returncode == 1
    assert done.stdout.startswith(f"{a}: FAULT: {a}.bin: token ID 11 in document 0")
    assert f"{b}: good" in done.stdout
    done = call(b, "--vocab-size", 9)
    assert "token ID 9 in document 3 is outside [0, 9)" in done.stdout
    done = call(tmp_path / "c.manifest.json")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error: ")
