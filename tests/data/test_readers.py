"""Reading: hostile lines as Python's parser judges them, lines and files of every size in bounded memory."""

from __future__ import annotations

import contextlib
import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_bielik.data import inputs, readers
from megatron_bielik.data.inputs import TxtSplit, default_piece_bytes, find_inputs, plan_pieces
from megatron_bielik.data.readers import read_piece

HOSTILE = [
    b'{"text": "dobry"}',
    b'{"text": "a", "x": NaN}',
    b'{"text": "a", "x": [Infinity, -Infinity]}',
    b'{"text": "a", "n": 1e999}',
    b'{"text": "a", "n": ' + b"9" * 400 + b"}",
    b'{"text": "a", "n": 01}',
    b'{"text": "a", "n": -}',
    b'{"text": "a", "n": 1.}',
    b'{"text": "a",}',
    b"{'text': 'a'}",
    b'{"text": "a"}{"text": "b"}',
    b'{"text": "a"} x',
    b'{"text": "a"}\x00',
    b'\x0b{"text": "a"}',
    b' \t{"text": "a"}\r',
    b'{"text": 1, "text": "last"}',
    b'{"te\\u0078t": "escaped key"}',
    b'{"text": "\\u0000\\n\\"\\\\\\/"}',
    b'{"text": "\\ud83d\\ude00"}',
    b'{"text": "\\ud83d"}',
    b'{"text": "\\ude00\\ud83d"}',
    b'{"text": "a", "\\ud800": "b"}',
    b'{"text": "a", "b": "\\udfff"}',
    b'{"text": "a\x01"}',
    b'{"text": "a\tb"}',
    b'{"text": "\\x41"}',
    b'{"text": "\\u12"}',
    b'{"text": "\xff"}',
    b'{"text": "\xed\xa0\x80"}',
    b'{"text": "\xc0\x80"}',
    b'{"text": "\xf4\x90\x80\x80"}',
    b'\xef\xbb\xbf{"text": "a"}',
    b'{"text": ""}',
    b'{"text": null}',
    b'{"text": ["a"]}',
    b'{"text": {"text": "a"}}',
    b'"text"',
    b"[]",
    b"{}",
    b"null",
    b"true",
    b"3",
    b'{"text": "a", "x": ' + b"[" * 500 + b"]" * 500 + b"}",
    b'{"text"',
    b'{"text": "a',
    b'{"a": {"text": "inner"}, "text": "outer"}',
    b'{"text": "\xe2\x80\xa8\xc2\x85\xf0\x9f\x98\x80\xef\xbf\xbf"}',
    '{"text": "za\u017c\u00f3\u0142\u0107"}'.encode("utf-16"),
]


def judged_by_python(line: bytes) -> bytes | None:
    """The rule: strict UTF-8, Python's json module, a string under the key that UTF-8 can hold."""
    try:
        text = json.loads(line.decode())["text"].encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    assert isinstance(text, bytes)
    return text


def read(path: Path, piece_bytes: int = 1 << 24, split: TxtSplit = "file") -> tuple[list[bytes], list[tuple[int, str]]]:
    """Texts, and bad records with their line in the whole file, from 1."""
    texts, bad, before = list[bytes](), list[tuple[int, str]](), 0
    for piece in plan_pieces(find_inputs([str(path)]), piece_bytes, split):
        for batch in read_piece(piece, "text", split):
            texts += batch.texts
            bad += [(before + record.number + 1, record.reason) for record in batch.bad]
        before += sum(batch.records for batch in read_piece(piece, "text", split))
    return texts, bad


@pytest.mark.parametrize("line", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_lines_are_judged_as_python_does(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "1"}\n' + line + b'\n{"text": "2"}\n')
    texts, bad = read(tmp_path / "a.jsonl")
    wanted = judged_by_python(line)
    # A line that is UTF-16 may hold a byte that ends lines; each part of it is judged.
    if wanted is None:
        assert texts == [b"1", b"2"]
        assert bad[0][0] == 2
    else:
        assert texts == [b"1", wanted, b"2"]
        assert bad == []


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=20), st.sampled_from(HOSTILE), st.data())
def test_mutilated_lines_are_judged_as_python_does(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, line: bytes, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(line)))
    line = (line[:at] + noise + line[at + data.draw(st.integers(0, 3)) :]).replace(b"\n", b"")
    path = tmp_path_factory.getbasetemp() / "mutilated.jsonl"
    path.write_bytes(b"{}\n" + line)  # not first, where a byte order mark is taken off
    wanted = judged_by_python(line)
    assert read(path)[0] == ([] if wanted is None else [wanted])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(["", "x", "yy", " ", "long" * 9]), max_size=12), st.integers(1, 40), st.booleans())
def test_batches_of_every_size_give_the_same(
    tmp_path_factory: pytest.TempPathFactory, words: list[str], size: int, ends: bool
) -> None:
    """Lines, blank ones among them: texts and numbers of bad lines do not depend on pieces, batches and compression."""
    rows = [json.dumps({"text": word}) if word.strip() else word for word in words]
    rows = [row if "y" not in row else "bad" for row in rows]
    content = ("\n".join(rows) + ("\n" if ends and rows else "")).encode()
    folder = tmp_path_factory.getbasetemp()
    expected = [word.encode() for word in words if word.strip() and "y" not in word]
    numbers = [number for number, row in enumerate(rows, 1) if row == "bad"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "_BATCH_BYTES", size)
        for name, data in (("b.jsonl", content), ("b.jsonl.gz", gzip.compress(content))):
            (folder / name).write_bytes(data)
            for piece_bytes in (size, 3, 1 << 20):
                texts, bad = read(folder / name, piece_bytes)
                assert texts == expected
                assert [number for number, _ in bad] == numbers


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
@pytest.mark.parametrize("piece_bytes", [7, 64, 1000, 1 << 20])
def test_a_line_that_is_too_long_is_a_bad_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, piece_bytes: int
) -> None:
    for module in (inputs, readers):
        monkeypatch.setattr(module, "LINE_BYTES", 100)
        monkeypatch.setattr(module, "_READ_BYTES", 16)
    monkeypatch.setattr(inputs, "_ZSTD_READ_BYTES", 16)
    fits = json.dumps({"text": "x" * 88}).encode()
    assert len(fits) == 100
    rows = [
        b'{"text": "a"}',
        json.dumps({"text": "x" * 89}).encode(),
        b"y" * 777,
        b"",
        fits,
        b'{"text": "b"}',
        b"z" * 500,
    ]
    for content in (b"\n".join(rows), b"\n".join(rows) + b"\n"):
        data = content
        if name.endswith(".gz"):
            data = gzip.compress(content)
        elif name.endswith(".zst"):
            data = zstandard.compress(content)
        (tmp_path / name).write_bytes(data)
        texts, bad = read(tmp_path / name, piece_bytes)
        assert texts == [b"a", b"x" * 88, b"b"]
        assert [number for number, _ in bad] == [2, 3, 7]
        assert all(reason.startswith("a line of more than") for _, reason in bad)


@pytest.mark.parametrize("piece_bytes", [7, 64, 1 << 20])
def test_a_paragraph_that_is_too_long_is_a_bad_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece_bytes: int
) -> None:
    monkeypatch.setattr(readers, "LINE_BYTES", 50)
    monkeypatch.setattr(readers, "_READ_BYTES", 16)
    (tmp_path / "a.txt").write_text("a" * 49 + "\n\n" + "b" * 60 + "\n\nc\n" + "d\n" * 30 + "\n" + "e" * 40 + "\nf")
    texts, bad = read(tmp_path / "a.txt", piece_bytes, "blank-line")
    assert texts == [b"a" * 49, b"e" * 40 + b"\nf"]
    assert [reason for _, reason in bad] == ["a document of more than 0 MiB"] * 2


def test_pieces_grow_with_the_inputs(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    (source,) = find_inputs([str(tmp_path / "a.txt")])
    sizes = [default_piece_bytes([source, source.__class__("b", "txt", size, 0)]) for size in (0, 500_000_000, 10**12)]
    assert sizes == [16_000_000, 31_250_000, 64_000_000]


READ = """
import resource, sys
from megatron_bielik.data.inputs import find_inputs, plan_pieces
from megatron_bielik.data.readers import read_piece
if sys.argv[1].endswith("parquet"): import pyarrow.parquet
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
count = 0
for piece in plan_pieces(find_inputs([sys.argv[1]]), 64_000_000, "file"):
    for batch in read_piece(piece, "text", "file"):
        count += len(batch.texts)
print(count, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def lines_of(count: int) -> Iterator[bytes]:
    line = json.dumps({"text": "w kółko to samo " * 60}, ensure_ascii=False).encode() + b"\n"
    for _ in range(count // 1000):
        yield line * 1000


@pytest.mark.parametrize(
    ("name", "most"), [("a.jsonl", 60), ("a.jsonl.zst", 160), ("a.jsonl.gz", 120), ("a.parquet", 120)]
)
def test_memory_does_not_grow_with_the_input(tmp_path: Path, name: str, most: int) -> None:
    """300 MB of text, in the compressed files a thousandth of it, in the parquet file one row group; MiB added."""
    path = tmp_path / name
    if name == "a.parquet":
        texts = [f"{number} " + "w kółko to samo " * 300 for number in range(1000)]
        with pq.ParquetWriter(path, pa.schema([("text", pa.string())]), use_dictionary=False) as writer:
            writer.write_table(pa.table({"text": texts * 60}), row_group_size=10**9)
        assert pq.ParquetFile(path).metadata.num_row_groups == 1
        count = 60_000
    else:
        count = 290_000
        with contextlib.ExitStack() as stack:
            stream: Any = stack.enter_context(path.open("wb"))
            if name.endswith(".gz"):
                stream = stack.enter_context(gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=1))
            elif name.endswith(".zst"):
                stream = stack.enter_context(zstandard.ZstdCompressor().stream_writer(stream, closefd=False))
            for block in lines_of(count):
                stream.write(block)
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path)], capture_output=True, text=True, timeout=60, check=True
    )
    found, added = map(int, done.stdout.split())
    assert found == count
    assert added < most
