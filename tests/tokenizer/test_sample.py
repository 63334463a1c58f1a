"""The sample: every format, exact shares, the same for the same seed, uniform, and what is told about inputs that fail."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from megatron_bielik.data.errors import DataError
from megatron_bielik.tokenizer.sample import Reservoir, Source, draw_sample, parse_sources
from megatron_bielik.tokenizer.sentencepiece_model import TokenizerError

TEXTS = [f"dokument numer {index}, zażółć gęślą jaźń" for index in range(200)]
JSONL = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()
TXT = "\n".join(TEXTS).encode()
FILES: dict[str, Callable[[Path], object]] = {
    "a.jsonl": lambda path: path.write_bytes(JSONL),
    "a.jsonl.gz": lambda path: path.write_bytes(gzip.compress(JSONL)),
    "a.jsonl.zst": lambda path: path.write_bytes(zstandard.compress(JSONL)),
    "a.txt": lambda path: path.write_bytes(TXT),
    "a.txt.gz": lambda path: path.write_bytes(gzip.compress(TXT)),
    "a.txt.zst": lambda path: path.write_bytes(zstandard.compress(TXT)),
    "a.parquet": lambda path: pq.write_table(pa.table({"text": TEXTS}), path, row_group_size=30),
}


@pytest.mark.parametrize("name", FILES)
def test_every_format_is_read_whole(tmp_path: Path, name: str) -> None:
    FILES[name](tmp_path / name)
    seen: list[int] = []
    sample = draw_sample([Source(str(tmp_path / "a.*"))], 10**9, advance=seen.append)
    assert [text.decode() for text in sample.texts] == TEXTS
    assert sample.size == sample.read_bytes == sum(seen) == sum(len(text.encode()) for text in TEXTS)
    assert (sample.bad_records, sample.notes) == (0, [])


def write(path: Path, letter: str, count: int) -> str:
    path.write_text("".join(f"{letter * 99}\n" for _ in range(count)), encoding="utf-8")
    return str(path)


def test_weights_are_shares_of_the_bytes(tmp_path: Path) -> None:
    big, small = write(tmp_path / "a.txt", "a", 5000), write(tmp_path / "b.txt", "b", 1000)
    sample = draw_sample(parse_sources([f"{big}=3", f"{small}=1"]), 40_000)
    letters = b"".join(sample.texts).decode()
    assert (letters.count("a"), letters.count("b")) == (30_000, 10_000)
    assert sample.notes == []


def test_an_input_that_runs_out_makes_the_sample_smaller_not_its_share(tmp_path: Path) -> None:
    big, small = write(tmp_path / "a.txt", "a", 5000), write(tmp_path / "b.txt", "b", 100)
    sample = draw_sample(parse_sources([f"{big}=0.9", f"{small}=0.1"]), 200_000)
    letters = b"".join(sample.texts).decode()
    assert letters.count("b") == 9_900
    assert letters.count("a") == pytest.approx(9 * 9_900, abs=1)
    (note,) = sample.notes
    assert "b.txt ran out: it holds 0.01 MB, its share is 0.02 MB; the sample is 0.10 MB" in note


def test_without_weights_inputs_have_the_share_of_what_they_hold(tmp_path: Path) -> None:
    inputs = [write(tmp_path / "a.txt", "a", 9000), write(tmp_path / "b.txt", "b", 1000)]
    sample = draw_sample(parse_sources(inputs), 99_000)
    assert sample.size == 99_000
    assert b"".join(sample.texts).decode().count("b") == pytest.approx(9_900, rel=0.3)


def test_the_seed_chooses(tmp_path: Path) -> None:
    FILES["a.jsonl"](tmp_path / "a.jsonl")
    source = [Source(str(tmp_path / "a.jsonl"))]
    first, again, other = (draw_sample(source, 2000, seed).texts for seed in (0, 0, 1))
    assert first == again != other
    order = [TEXTS.index(text.decode()) for text in first[:-1] if text.decode() in TEXTS]
    assert order == sorted(order)


def test_a_reservoir_is_uniform_and_ends_at_its_room() -> None:
    hits = [0] * 50
    for seed in range(600):
        reservoir = Reservoir(100, str(seed))
        for number in range(50):
            reservoir.offer(b"%010d" % number)
        texts = reservoir.texts()
        assert sum(map(len, texts)) == 100
        for text in texts:
            hits[int(text)] += 1
    assert all(80 < count < 165 for count in hits), hits  # 120 expected, 4 standard deviations
    reservoir = Reservoir(9, "0")
    reservoir.offer("ąąąąąąą".encode())
    assert reservoir.texts() == ["ąąąą".encode()]  # no half character


def test_bad_records_are_counted_and_the_first_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"body": "b"}\n[\n', encoding="utf-8")
    sample = draw_sample([Source(str(tmp_path / "a.jsonl"))], 100)
    assert (sample.texts, sample.bad_records) == ([b"a"], 2)
    assert "a.jsonl: no key 'text'" in sample.notes[0]
    (tmp_path / "b.txt").write_bytes(b"dobrze\n\xff\n")
    assert draw_sample([Source(str(tmp_path / "b.txt"))], 100).bad_records == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"x", r"a\.csv: unknown suffix, needs one of \.jsonl, .*\.txt\.zst"),
        ("a.jsonl", b'{"body": "b"}\n', r"a\.jsonl: no text in it .*no key 'text'"),
        ("a.txt", b"", r"a\.txt: no text in it; name another"),
        ("a.txt.gz", gzip.compress(TXT)[:-20], "is truncated"),
    ],
)
def test_an_input_without_text_is_an_error(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises((TokenizerError, DataError), match=message):
        draw_sample([Source(str(tmp_path / name))], 100)


def test_inputs_are_parsed() -> None:
    assert parse_sources(["a/*.jsonl=0.9", "b.txt=1"]) == [Source("a/*.jsonl", 0.9), Source("b.txt", 1.0)]
    assert parse_sources(["day=1/a.jsonl"]) == [Source("day=1/a.jsonl")]
    for inputs, message in (
        (["a=0.5", "b"], "--input b has no weight but others have"),
        (["a=0"], "--input a=0: the weight is 0, needs a number above 0"),
        (["a=nan"], "the weight is nan"),
    ):
        with pytest.raises(TokenizerError, match=message):
            parse_sources(inputs)
    with pytest.raises(TokenizerError, match=r"nowhere/\*\.jsonl: no such file"):
        draw_sample([Source("nowhere/*.jsonl")], 100)
