"""The experiment on the adaptive learning rate at its smallest size, its data, and the rates it calls equal."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import script_environment

FOLDER = Path(__file__).parents[2] / "examples" / "experiments" / "sft_alr"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"sft_alr_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_step_runs_and_rates_agree(tmp_path: Path) -> None:
    environment = script_environment(QUICK="1", XDG_CACHE_HOME=str(tmp_path / "cache"))
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
