"""The benchmark of whole steps: every contender still runs, at tiny shapes; without a GPU it says that it cannot measure."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "tools" / "bench" / "train_step.py"


def test_every_contender_makes_steps(tmp_path: Path) -> None:
    output = tmp_path / "train_step.json"
    command = [sys.executable, str(BENCH), "--check", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    results = json.loads(output.read_text())["results"]
    assert [result["contender"] for result in results] == ["ours", "transformers + Liger", "megatron-core local"]
    for result in results:
        assert result["tokens_per_second"] > 0
        assert result["peak_gib"] > 0
        assert result["parts_ms"]["matrix products"] > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is something to measure")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCH), "--output", str(tmp_path / "none.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert done.stderr.startswith("no GPU")
    assert not list(tmp_path.iterdir())
