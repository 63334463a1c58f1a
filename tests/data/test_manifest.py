"""Shards by token budget and their manifest: same bytes whatever the workers, kills and full disks; merging by manifest."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from megatron_bielik.corpus.synthetic import generate_document
from megatron_bielik.data import join, preprocess
from megatron_bielik.data.errors import DataError
from megatron_bielik.data.join import plan_shards
from megatron_bielik.data.manifest import find_shards, manifest_path, read_manifest
from megatron_bielik.data.merge import merge
from megatron_bielik.data.preprocess import PreprocessOptions, Summary
from megatron_bielik.data.shards import ShardReader, ShardWriter
from megatron_bielik.data.validate import validate
from megatron_bielik.tokenizer.train import build_tokenizer

TOOL = Path(__file__).parents[2] / "tools" / "preprocess_data.py"
TEXTS = [generate_document(3, i)["text"] for i in range(200)]
TEXTS[50] = " ".join(TEXTS[:20])  # longer than the shards of most tests
BUDGET = 3000


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer([text.encode() for text in TEXTS], 700, folder)
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return path


@pytest.fixture
def run(tmp_path: Path, source: Path, tokenizer: Path) -> Callable[..., Summary]:
    def call(**options: object) -> Summary:
        prefix = str(tmp_path / "made" / "out")
        base = PreprocessOptions((str(source),), str(tokenizer), prefix, piece_bytes=20_000, shard_tokens=BUDGET)
        return preprocess.preprocess(replace(base, **options))  # type: ignore[arg-type]

    return call


def contents(folder: Path) -> dict[str, bytes]:
    """Everything but the statistics, in which the encoder may differ."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != "out.json"}


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), max_size=9), max_size=5), st.integers(1, 12))
def test_the_plan_is_that_of_a_plain_loop(pieces: list[list[int]], budget: int) -> None:
    expected: list[list[tuple[int, int]]] = [[]]
    used = 0
    for piece, lengths in enumerate(pieces):
        for document, tokens in enumerate(lengths):
            if expected[-1] and used + tokens > budget:
                expected.append([])
                used = 0
            expected[-1].append((piece, document))
            used += tokens
    plan = plan_shards(((Path(str(i)), np.array(p, np.int32)) for i, p in enumerate(pieces)), budget)
    found = [[(int(s.piece.name), d) for s in shard for d in range(s.first, s.stop)] for shard in plan]
    assert found == expected
    whole = plan_shards(((Path(str(i)), np.array(p, np.int32)) for i, p in enumerate(pieces)), None)
    assert len(whole) == 1
    assert [s.stop for s in whole[0]] == list(map(len, pieces))


def test_shards_hold_the_documents_and_the_manifest_says_so(
    tmp_path: Path, run: Callable[..., Summary], tokenizer: Path, source: Path
) -> None:
    summary = run()
    folder = tmp_path / "made"
    manifest = read_manifest(folder / "out.manifest.json")
    names = [f"out-{number:05d}" for number in range(len(manifest.shards))]
    assert [entry.name for entry in manifest.shards] == names == summary.shards
    assert len(names) > 3
    files = [f"{name}{suffix}" for name in names for suffix in (".bin", ".idx")]
    assert {path.name for path in folder.iterdir()} == {*files, "out.json", "out.manifest.json"}
    hf = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    expected = [[*hf.encode(text, add_special_tokens=False).ids, 2] for text in TEXTS]
    found: list[list[int]] = []
    for entry in manifest.shards:
        reader = ShardReader(folder / entry.name)
        assert reader.num_tokens <= BUDGET or len(reader) == 1
        assert (entry.documents, entry.tokens) == (len(reader), reader.num_tokens)
        for suffix in ("bin", "idx"):
            data = (folder / f"{entry.name}.{suffix}").read_bytes()
            assert getattr(entry, f"{suffix}_bytes") == len(data)
            assert getattr(entry, f"{suffix}_sha256") == hashlib.sha256(data).hexdigest()
        found += [document.tolist() for document in reader]
    assert found == expected
    assert (manifest.documents, manifest.tokens) == (len(expected), sum(map(len, expected)))
    assert (manifest.dtype, manifest.vocab_size, manifest.eod_id, manifest.append_eod) == ("uint16", 700, 2, True)
    assert manifest.inputs == [{"path": str(source), "bytes": source.stat().st_size}]
    assert all(shard.fault is None and shard.checksums for shard in validate([folder / "out.manifest.json"]))
    lengths = sorted(map(len, expected))
    assert summary.document_tokens["p50"] == lengths[len(lengths) // 2 - 1]
    assert summary.document_tokens["max"] == lengths[-1]
    assert summary.bytes_per_token == sum(len(t.encode()) for t in TEXTS) / (sum(lengths) - len(lengths))


def test_words_are_counted_in_every_32nd_document(run: Callable[..., Summary], tokenizer: Path) -> None:
    summary = run(piece_bytes=10_000_000)
    hf = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    words = sum(len(text.split()) for text in TEXTS[::32])
    tokens = sum(len(hf.encode(text, add_special_tokens=False).ids) for text in TEXTS[::32])
    assert (summary.sampled_documents, summary.sampled_words, summary.sampled_tokens) == (7, words, tokens)
    assert summary.tokens_per_word_sampled == tokens / words


def test_workers_pieces_and_encoders_give_the_same_bytes(tmp_path: Path, run: Callable[..., Summary]) -> None:
    seen = []
    for options in ({}, {"workers": 2}, {"workers": 3, "piece_bytes": 3_001, "encoder": "tokenizers"}):
        run(overwrite=True, **options)
        seen.append(contents(tmp_path / "made"))
    assert seen[1] == seen[0]
    assert seen[2] == seen[0]


def test_the_same_shards_are_recognised_and_others_replaced(tmp_path: Path, run: Callable[..., Summary]) -> None:
    folder = tmp_path / "made"
    first = run()
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert run() == first
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    for options in ({"shard_tokens": 10 * BUDGET}, {"shard_tokens": None}):
        with pytest.raises(DataError, match=r"was made from something else \(shard_tokens\)"):
            run(**options)
    (folder / "out-00099.bin").write_bytes(b"somebody else's")
    assert len(run(shard_tokens=10 * BUDGET, overwrite=True).shards) < len(first.shards)
    names = {path.name for path in folder.glob("out-*.idx")}
    assert names == {f"{entry.name}.idx" for entry in read_manifest(folder / "out.manifest.json").shards}
    run(shard_tokens=None, overwrite=True)
    assert {path.name for path in folder.iterdir()} == {
        "out.bin", "out.idx", "out.json", "out.manifest.json", "out-00099.bin",
    }  # fmt: skip
    (folder / "out.bin").unlink()
    with pytest.raises(DataError, match="a file is missing or has another size"):
        run(shard_tokens=None)
    (folder / "out.manifest.json").unlink()
    run(shard_tokens=None)
    (folder / "out.json").unlink()
    with pytest.raises(DataError, match="its origin is not known"):
        run(shard_tokens=None)


@pytest.mark.parametrize("other_pieces", [False, True])
def test_stopped_while_joining_another_budget_can_go_on(
    tmp_path: Path, run: Callable[..., Summary], monkeypatch: pytest.MonkeyPatch, other_pieces: bool
) -> None:
    def interrupted(prefix: Path, digest: str) -> None:
        if prefix.name == "out-00003":
            raise KeyboardInterrupt
        return real(prefix, digest)  # type: ignore[return-value]

    real = join.entry_of
    monkeypatch.setattr(join, "entry_of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run()
    folder = tmp_path / "made"
    assert (folder / "out-00003.idx").exists()
    assert not manifest_path(folder / "out").exists()
    assert not list(folder.glob("*.tmp"))
    monkeypatch.undo()
    if other_pieces:
        assert len(run(shard_tokens=1_000_000, piece_bytes=7_000, overwrite=True).shards) == 1
    else:
        assert len(run(shard_tokens=1_000_000).shards) == 1
    assert [path.name for path in folder.glob("*.idx")] == ["out-00000.idx"]


def test_killed_at_any_moment_the_same_bytes(tmp_path: Path, run: Callable[..., Summary], tokenizer: Path) -> None:
    run()
    folder = tmp_path / "made"
    whole = contents(folder)
    command = [sys.executable, str(TOOL), "--input", str(tmp_path / "in.jsonl"), "--tokenizer", str(tokenizer)]
    command += ["--output-prefix", str(tmp_path / "killed" / "out"), "--piece-megabytes", "0.02", "--workers", "1"]
    command += ["--shard-tokens", str(BUDGET)]
    killed = tmp_path / "killed"
    seen = set()
    # Each of these appears at another stage of the run: pieces, first shards, last shards, statistics.
    for sign in ("out.pieces/000002-000000.json", "out-00001.bin.tmp", "out-00004.idx", "out.json"):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < deadline:
            if (killed / sign).exists():
                process.send_signal(signal.SIGKILL)
                break
        if process.wait(timeout=20) == -signal.SIGKILL:
            seen.add(sign)
    assert len(seen) >= 2
    finish = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert finish.returncode == 0, finish.stderr
    assert contents(killed) == whole


@pytest.mark.parametrize("limit", [3_000, 9_000])
def test_a_full_disk_leaves_no_half_file(tmp_path: Path, run: Callable[..., Summary], limit: int) -> None:
    """The pieces are made first; then no file may be larger than the limit."""
    run(overwrite=True)
    folder = tmp_path / "made"
    whole = contents(folder)
    for path in folder.iterdir():
        path.unlink()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    real = preprocess.join_pieces

    def limited(*args: object) -> object:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        return real(*args)  # type: ignore[arg-type]

    preprocess.join_pieces = limited  # type: ignore[assignment]
    try:
        with pytest.raises(DataError, match=r"cannot write .*: file too large; nothing was left") as error:
            run()
    finally:
        preprocess.join_pieces = real
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert "\n" not in str(error.value)
    assert not manifest_path(folder / "out").exists()
    for path in folder.glob("out-*"):
        assert path.read_bytes() == whole[path.name]
    run()
    assert contents(folder) == whole


def test_a_disk_too_full_for_the_manifest(
    tmp_path: Path, run: Callable[..., Summary], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preprocess, "write_manifest", lambda *_: _refuse(tmp_path))
    with pytest.raises(DataError, match="the disk is full"):
        run()
    monkeypatch.undo()
    assert run().shards
    assert not (tmp_path / "made" / "out.pieces").exists()


def _refuse(folder: Path) -> None:
    from megatron_bielik.data.manifest import write_json

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", full)
        try:
            write_json(folder / "made" / "out.manifest.json", {})
        finally:
            assert not list((folder / "made").glob("*.manifest.json*"))


def test_merging_manifests(tmp_path: Path, run: Callable[..., Summary]) -> None:
    run()
    made = tmp_path / "made"
    reader, count, has_manifest = merge([made / "out.manifest.json"], tmp_path / "all")
    assert (count, has_manifest) == (len(read_manifest(made / "out.manifest.json").shards), True)
    assert all(shard.fault is None and shard.checksums for shard in validate([tmp_path / "all"]))
    run(shard_tokens=None, overwrite=True)
    assert (made / "out.bin").read_bytes() == (tmp_path / "all.bin").read_bytes()
    assert (made / "out.idx").read_bytes() == (tmp_path / "all.idx").read_bytes()
    twice, count, _ = merge([made / "out.bin", made / "out.idx", tmp_path / "all"], tmp_path / "twice")
    assert (count, twice.num_tokens) == (2, 2 * reader.num_tokens)

    with ShardWriter(tmp_path / "foreign", 700) as writer:
        writer.add_document([1, 2])
    assert merge([tmp_path / "foreign", made / "out"], tmp_path / "mixed")[2] is False
    assert not manifest_path(tmp_path / "mixed").exists()
    content = json.loads((made / "out.manifest.json").read_text())
    for key, value in (("tokenizer_sha256", "x"), ("eod_id", 3), ("append_eod", False), ("vocab_size", 701)):
        (made / "out.manifest.json").write_text(json.dumps({**content, key: value}))
        with pytest.raises(DataError, match=f"has {key} .*do not mean the same"):
            merge([tmp_path / "all", made / "out"], tmp_path / "wrong")
    assert not list(tmp_path.glob("wrong*"))


def test_merging_onto_itself_is_refused(tmp_path: Path, run: Callable[..., Summary]) -> None:
    run()
    before = contents(tmp_path / "made")
    with pytest.raises(DataError, match="is also an input"):
        merge([tmp_path / "made" / "out.manifest.json"], tmp_path / "made" / "out-00001")
    with pytest.raises(DataError, match="its manifest names other shards"):
        merge([tmp_path / "made" / "out.manifest.json"], tmp_path / "made" / "out")
    with pytest.raises(DataError, match="needs at least one"):
        merge([], tmp_path / "x")
    assert contents(tmp_path / "made") == before


def test_names_stand_for_shards(tmp_path: Path, run: Callable[..., Summary]) -> None:
    run()
    out = tmp_path / "made" / "out"
    entries = read_manifest(manifest_path(out)).shards
    for name in (out, manifest_path(out)):
        assert [shard.entry for shard in find_shards([name])] == list(entries)
    found = find_shards([f"{out}-00001.bin", f"{out}-00001", out])
    assert (found[0].prefix.name, found[0].entry) == ("out-00001", entries[1])
    assert len(found) == len(entries)
    assert find_shards([tmp_path / "nothing"])[0].manifest is None
    with pytest.raises(DataError, match=r"nothing\.manifest\.json not found"):
        find_shards([tmp_path / "nothing.manifest.json"])
