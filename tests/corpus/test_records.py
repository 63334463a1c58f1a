"""Records: every format read with all fields, what is bad counted by place, files that appear when complete."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from megatron_bielik.corpus.records import ReadCount, dump, read_records, record_writer, with_results
from megatron_bielik.data.errors import DataError
from megatron_bielik.data.fields import field_getter, replace_field, take_field

RECORDS = [
    {"id": 1, "text": "Zażółć"},
    {"id": 2, "text": ""},
    {"id": 3, "text": "😀\n\u2028x", "extra": {"a": [1, None]}},
]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_what_is_written_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "deep" / f"a{suffix}"
    with record_writer(path) as stream:
        for record in RECORDS:
            stream.write(dump(record))
        assert not path.exists()
    count = ReadCount()
    assert list(read_records([str(path)], "text", count)) == RECORDS
    assert (count.records, count.bad) == (3, 0)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_parquet_and_txt(tmp_path: Path) -> None:
    pa.parquet.write_table(pa.table({"id": [1, 2], "text": ["a", None]}), tmp_path / "a.parquet")
    (tmp_path / "b.txt").write_text("cały\nplik", encoding="utf-8")
    count = ReadCount()
    read = list(read_records([str(tmp_path / "a.parquet"), str(tmp_path / "b.txt")], "text", count))
    assert read == [{"id": 1, "text": "a"}, {"text": "cały\nplik"}]
    assert count.first_bad == [f"{tmp_path}/a.parquet, row 2: no text under 'text'"]


@pytest.mark.parametrize("content", ["", "\n\n", '{"body": "a"}\n', "{\n[]\n"])
def test_e9_files_without_a_text_are_an_error(content: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match="no record with a text") as error:
        list(read_records([str(path)], "text", ReadCount()))
    assert "\n" not in str(error.value)
    if content.strip():
        assert f"first: {path}, line 1: " in str(error.value)
    assert list(read_records([str(path)], "text", ReadCount(), may_be_empty=True)) == []


def test_e9_nested_texts(tmp_path: Path) -> None:
    """The field b of the object under a, unless a field is called a.b."""
    rows = ['{"a": {"b": "raz"}}', '{"a": {"c": 1}}', '{"a": [1]}', '{"a": "x"}', '{"a.b": "dwa", "a": {"b": "nie"}}']
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    count = ReadCount()
    text_of = field_getter("a.b")
    assert [text_of(r) for r in read_records([str(tmp_path / "a.jsonl")], "a.b", count)] == ["raz", "dwa"]
    assert count.bad == 3


_NAMES = st.sampled_from(["text", "id", "source_text", "source_source_text", "a", "quality"])


@given(st.dictionaries(_NAMES, st.integers()), st.dictionaries(_NAMES, st.text()))
def test_c1_results_and_fields_are_both_kept(record: dict[str, int], results: dict[str, str]) -> None:
    before = dict(record)
    made = with_results(record, results)
    assert {name: made[name] for name in results} == results
    assert len(made) == len(record) + len(results)
    assert record == before
    others = {name: value for name, value in made.items() if name not in results}
    assert list(others.values()) == list(record.values()), "every field once, in its order"
    for (name, value), (found, kept) in zip(record.items(), others.items(), strict=True):
        assert value == kept
        assert found == name if name not in results else found.endswith(f"source_{name}")


_KEYS = st.sampled_from(["a", "b", "a.b", "b.a", "a.b.a", "c"])
_TREES = st.recursive(st.text(max_size=2), lambda inner: st.dictionaries(_KEYS, inner, max_size=3), max_leaves=6)


@given(st.dictionaries(_KEYS, _TREES, max_size=3), _KEYS)
def test_e9_a_field_is_found_taken_and_replaced_in_one_place(record: dict[str, Any], key: str) -> None:
    before = orjson.dumps(record)
    try:
        found = field_getter(key)(record)
    except (KeyError, TypeError):
        found = None
    rest = dict(record)
    assert take_field(rest, key) == found
    assert orjson.dumps(record) == before
    if found is not None:
        assert orjson.dumps(rest) != before
        replace_field(record, key, "new")
        assert field_getter(key)(record) == "new"
        replace_field(record, key, found)
        assert orjson.dumps(record) == before


def test_bad_lines_are_counted_by_place(tmp_path: Path) -> None:
    lines = [
        b'\xef\xbb\xbf{"text": "BOM"}',
        b"",
        b"{",
        b"[1]",
        b'{"text": 5}',
        b'{"text": "\\ud800"}',
        b'{"text": "\xff"}',
        b'{"text": "ok"}',
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    count = ReadCount()
    assert [r["text"] for r in read_records([str(tmp_path / "a.jsonl")], "text", count)] == ["BOM", "ok"]
    assert count.bad == 5
    assert [place.split(":")[0].rsplit(" ", 1)[1] for place in count.first_bad] == ["3", "4", "5", "6", "7"]


@pytest.mark.parametrize("kind", ["gz", "zst", "parquet", "txt"])
def test_a_damaged_file_is_one_line(tmp_path: Path, kind: str) -> None:
    body = b"".join(dump({"text": os.urandom(40).hex()}) for _ in range(500))
    path = tmp_path / {"gz": "a.jsonl.gz", "zst": "a.jsonl.zst", "parquet": "a.parquet", "txt": "a.txt"}[kind]
    content = {
        "gz": gzip.compress(body),
        "zst": zstandard.compress(body),
        "parquet": b"PAR1" + body,
        "txt": b"\xff\xfe",
    }[kind]
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"cannot be read|truncated|damaged") as caught:
        list(read_records([str(path)], "text", ReadCount()))
    assert "\n" not in str(caught.value)


def test_an_error_in_the_block_leaves_nothing_and_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"old")

    def write_and_stop() -> None:
        with record_writer(path) as stream:
            stream.write(b"new")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_and_stop()
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.jsonl"]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_a_full_disk_is_one_line(tmp_path: Path, suffix: str) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.fail("this system has no /dev/full to try a full disk with")
    path = tmp_path / f"a.jsonl{suffix}"
    (tmp_path / f"{path.name}.tmp").symlink_to(full)

    def write_much() -> None:
        with record_writer(path) as stream:
            for _ in range(30_000):
                stream.write(dump({"text": "x" * 100}))

    with pytest.raises(DataError, match="the disk is full"):
        write_much()
    assert list(tmp_path.iterdir()) == []


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs a name ending in"), record_writer(tmp_path / "a.csv"):
        pass


def test_lone_surrogates_are_replaced() -> None:
    assert orjson.loads(dump({"text": "a\ud800b"})) == {"text": "a?b"}
