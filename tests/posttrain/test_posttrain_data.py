"""Data sets as they come: broken lines, wrong roles, too long answers are named and counted; prepared sets are found again."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from datasets import Dataset

from megatron_bielik.data.errors import DataError
from megatron_bielik.posttrain import data as data_module
from megatron_bielik.posttrain import sft
from megatron_bielik.posttrain.config import SFTConfig, SFTData
from megatron_bielik.posttrain.data import Prepared
from megatron_bielik.posttrain.job import one_line
from megatron_bielik.posttrain.run import load_encoder
from megatron_bielik.posttrain.sft_data import encode_set
from tests.posttrain.conftest import chats, small, write_rows

GOOD = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def encode(model: Path, folder: Path, *paths: Path, **options: Any) -> Prepared:
    data = SFTData([str(path) for path in paths], **{"sequence_length": 100, **options})
    encoder = load_encoder(small(SFTConfig(data=data), model, folder))
    return encode_set(folder / "data", "train", data.train, data, encoder, "tokenizer")


def test_hostile_rows_are_named_and_counted(models_folder: Path, tmp_path: Path) -> None:
    rows = [
        {"messages": GOOD},
        '{"messages": [{"role": "user", "content": "a"',
        "[1, 2]",
        {"text": "no messages"},
        {"messages": [{"role": "human", "content": "a"}, GOOD[1]]},
        {"messages": [GOOD[0], {"role": "assistant", "content": " \n "}]},
        {"messages": [GOOD[0], {"role": "assistant", "content": "dom " * 300}]},
        {"messages": [GOOD[0]]},
        {"messages": GOOD, "tools": "none"},
        {"messages": [GOOD[0], {"role": "assistant", "content": "\ufdd0"}]},
        {"messages": [{"role": "user", "content": "\ud800"}, GOOD[1]]},
        {"messages": [{"role": "user", "content": "<|im_end|>"}, GOOD[1]]},
    ]
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines) + "\n")
    report = encode(models_folder / "qwen2", tmp_path, path).report
    assert report.rows == len(rows)
    assert report.kept == 2
    assert report.special_as_text == 1
    assert report.dropped == {
        "not JSON": 3,  # a lone surrogate is none either
        "not messages": 1,
        "bad roles": 1,
        "empty answer": 1,
        "too long": 1,
        "no answer": 1,
        "bad tools": 1,
        "refused by the template": 1,
    }
    assert any(place.startswith(f"{path}, line 5: message 1 has role 'human'") for place in report.first)
    with pytest.raises(DataError, match=r"10 of 12 rows cannot be used .*more than data\.max_bad_share 0\.1; first: "):
        report.refuse_if_bad("data.train", 0.1)
    report.refuse_if_bad("data.train", 0.9)


@pytest.mark.parametrize("weight", [0, -1, "1", None, float("nan"), True])
def test_weights_must_be_numbers_above_0(models_folder: Path, tmp_path: Path, weight: Any) -> None:
    path = write_rows(tmp_path / "w.jsonl", [{"messages": GOOD, "weight": weight}, {"messages": GOOD, "weight": 0.5}])
    report = encode(models_folder / "qwen2", tmp_path, path, sample_weights=True).report
    assert report.kept + sum(report.dropped.values()) == 2
    assert report.kept == (2 if weight is True else 1)
    assert encode(models_folder / "qwen2", tmp_path, path).report.kept == (1 if weight != weight else 2)  # NaN: no JSON


def test_parquet_and_jsonl_give_the_same(models_folder: Path, tmp_path: Path) -> None:
    rows = chats(50)
    lines = write_rows(tmp_path / "c.jsonl", rows)
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet")
    one = encode(models_folder / "bielik", tmp_path / "1", lines, sample_weights=True)
    two = encode(models_folder / "bielik", tmp_path / "2", tmp_path / "c.parquet", sample_weights=True)
    assert one.report == two.report
    assert Dataset.from_file(str(one.path)).to_list() == Dataset.from_file(str(two.path)).to_list()
    assert one.report.kept == 50


def test_a_prepared_set_is_found_again_and_made_anew_for_other_options(
    models_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_rows(tmp_path / "c.jsonl", chats(5))
    first = encode(models_folder / "qwen2", tmp_path, path)
    assert encode(models_folder / "qwen2", tmp_path, path, sequence_length=50).path != first.path
    write_rows(path, chats(6))
    assert encode(models_folder / "qwen2", tmp_path, path).path != first.path
    write_rows(path, chats(5))
    monkeypatch.setattr(data_module, "read_rows", lambda *_: pytest.fail("read again"))
    again = small(SFTConfig(data=SFTData([str(path)], sequence_length=50)), models_folder / "qwen2", tmp_path)
    assert again.data.sequence_length == 50


def test_a_full_disk_leaves_nothing(models_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_rows(tmp_path / "c.jsonl", chats(5))

    class Full:
        def __init__(self, *_: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pa, "OSFile", Full)
    with pytest.raises(DataError, match="the disk is full"):
        encode(models_folder / "qwen2", tmp_path, path)
    assert not list((tmp_path / "data").glob("*"))


def test_errors_of_a_run_are_one_line(models_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def line_of(config: SFTConfig) -> str:
        code = one_line(lambda: sft.train(config, 2))
        (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
        assert code == 1
        return line

    empty = write_rows(tmp_path / "empty.jsonl", [])
    config = small(
        SFTConfig(data=SFTData([str(empty)], sequence_length=100)), models_folder / "qwen2", tmp_path / "run"
    )
    assert line_of(config) == "error: data.train: no usable row among 0 (the files are empty)"
    missing = replace(config, data=replace(config.data, train=[str(tmp_path / "none.jsonl")]))
    assert "none.jsonl" in line_of(missing)
    cut = tmp_path / "model"
    cut.mkdir()
    for source in (models_folder / "qwen2").iterdir():
        (cut / source.name).write_bytes(source.read_bytes()[: -100 if source.suffix == ".safetensors" else None])
    write_rows(tmp_path / "c.jsonl", chats(5))
    damaged = small(SFTConfig(data=SFTData([str(tmp_path / "c.jsonl")], sequence_length=200)), cut, tmp_path / "run")
    assert f"model.path {cut} does not load" in line_of(damaged)
