"""The experiment on the adaptive learning rate at its smallest size, its data, and the rates it calls equal."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "experiments" / "sft_alr"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"sft_alr_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_step_runs_and_rates_agree(tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "QUICK": "1", "PATH": path, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [str(FOLDER / "run.sh"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    runs = json.loads((tmp_path / "out/results.json").read_text())["unpacked-1"]
    assert list(runs) == ["plain", "alr-high", "plain-low", "alr"]
    assert runs["plain-low"]["mean_rate"] == pytest.approx(runs["alr"]["mean_rate"], rel=0.2)
    assert runs["alr"]["mean_rate"] < 0.6 * runs["plain"]["mean_rate"]
    log = [json.loads(line) for line in (tmp_path / "out/unpacked-1-alr/log.jsonl").read_text().splitlines()]
    for one in (record for record in log if record["type"] == "train"):
        assert one["lr"] == pytest.approx(one["lr_scheduled"] * math.sqrt(one["label_tokens"] / (4 * 512)))
    for name in ("rates", "losses"):
        assert (tmp_path / f"out/plots/{name}.png").read_bytes().startswith(b"\x89PNG")


def test_share_weighs_each_step_by_its_scheduled_rate(tmp_path: Path) -> None:
    rows = [(1.0, 0.5), (3.0, 0.3)]
    records = [{"type": "train", "lr_scheduled": rate, "lr": rate * factor} for rate, factor in rows]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    assert load("report").share_of(tmp_path) == pytest.approx((1 * 0.5 + 3 * 0.3) / 4)


def test_conversations_are_right_and_differ_in_length() -> None:
    data = load("data")
    rows = list(islice(data.tuning_rows(5), 300))
    assert rows == list(islice(data.tuning_rows(5), 300))
    lengths: dict[str, list[int]] = {"temat": [], "lista": []}
    for row in rows:
        assert re.fullmatch(row["form"], row["messages"][1]["content"])
        lengths[row["kind"]].append(len(row["messages"][1]["content"]))
    assert sum(lengths["lista"]) > 3 * sum(lengths["temat"])
    assert 0.15 < len(lengths["lista"]) / len(rows) < 0.35
    topics = [row["messages"][0]["content"] for row in rows if row["kind"] == "temat"]
    assert len(set(topics)) == len(topics)


def test_lists_are_written_as_asked() -> None:
    data = load("data")
    days = [
        data.list_row(("dni tygodnia", form, order), "Podaj {}.")["messages"]
        for form, order in (("po przecinku", ""), ("w punktach", ""), ("z numerami", " od końca"))
    ]
    assert days[0][0]["content"] == "Podaj dni tygodnia po przecinku."
    assert days[0][1]["content"].startswith("poniedziałek, wtorek, środa")
    assert days[1][1]["content"].splitlines()[-1] == "- niedziela"
    assert days[2][1]["content"].splitlines()[:2] == ["1. niedziela", "2. sobota"]


def test_what_is_held_out_is_not_trained_on_and_its_parts_are() -> None:
    data = load("data")
    trained = [row["messages"][0]["content"] for row in islice(data.tuning_rows(2), 1600)]
    held_out = [row["messages"][0]["content"] for row in data.held_out_rows(3, 90) if row["kind"] != "lista"]
    assert len(held_out) == 90 + 3 * len(data.HELD_OUT_WAYS)
    assert not set(trained) & set(held_out)
    ways = [way for way in data.WAYS if way not in data.HELD_OUT_WAYS]
    for place in range(3):
        assert {way[place] for way in data.HELD_OUT_WAYS} <= {way[place] for way in ways}
