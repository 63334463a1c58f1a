"""Documents of several files as one stream: order, limit, and where a damaged line is."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_bielik.data.documents import documents
from megatron_bielik.data.errors import DataError

TEXTS = ["pierwszy", "", "żółw 😀\nz dwiema liniami", "ostatni"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lines = "".join(json.dumps({"content": text}, ensure_ascii=False) + "\n" for text in TEXTS)
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    pq.write_table(pa.table({"content": TEXTS}), tmp_path / "c.parquet")
    (tmp_path / "d.txt").write_text("jeden\ndwa\n\ntrzy\n", encoding="utf-8")
    return tmp_path


def test_every_format_in_the_order_given(folder: Path) -> None:
    found = list(documents([f"{folder}/c.parquet", f"{folder}/[ab].jsonl*", f"{folder}/d.txt"], "content"))
    assert [text for text in found if text] == [text for text in TEXTS * 3 if text] + ["jeden\ndwa", "trzy"]


def test_limit(folder: Path) -> None:
    """The document that passes the limit is the last one; the rest is not read."""
    path = [str(folder / "a.jsonl")]
    assert list(documents(path, "content", max_bytes=1)) == TEXTS[:1]
    assert list(documents(path, "content", max_bytes=9)) == TEXTS[:3]
    assert list(documents(path, "content", max_bytes=10**9)) == TEXTS


def test_errors(folder: Path) -> None:
    with pytest.raises(DataError, match=r"^--corpus .*missing: no such file"):
        next(documents([str(folder / "missing")], option="--corpus"))
    (folder / "bad.jsonl").write_text('{"content": "a"}\n{"other": 1}\n')
    with pytest.raises(DataError, match=r"bad\.jsonl, line 2: "):
        list(documents([str(folder / "bad.jsonl")], "content"))
