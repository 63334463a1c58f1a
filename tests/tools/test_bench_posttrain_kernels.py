"""The benchmark of kernels in a transformers model: without a GPU it says so; its check runs every contender."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "bench" / "posttrain_kernels.py"), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment)


@pytest.mark.skipif(torch.cuda.is_available(), reason="measures instead")
def test_without_a_gpu_it_says_so() -> None:
    done = run()
    assert done.returncode != 0
    assert "GPU" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.full
def test_the_contenders_agree() -> None:
    done = run("--check")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "transformers" in done.stdout
    assert "cross_entropy" in done.stdout
