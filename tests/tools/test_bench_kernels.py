"""The kernel benchmark: its check runs every kernel against eager torch; without a GPU it says that it cannot measure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
KERNELS = {
    "rms_norm", "add_rms_norm", "rotate_qkv", "swiglu", "vocab_parallel_cross_entropy", "accumulate_embedding_gradient",
    "accumulate_weight_gradient", "linear_cross_entropy", "document_attention", "fp8_linear_forward", "MultiTensorAdamW",
    "gradient_square_sum",
}  # fmt: skip
DIFFERENTIABLE = {"rms_norm", "add_rms_norm", "rotate_qkv", "swiglu", "vocab_parallel_cross_entropy",
                  "linear_cross_entropy", "document_attention"}  # fmt: skip


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "bench" / "kernels.py"), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=150, env=environment)


def test_every_kernel_agrees_with_eager_torch(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    output = tmp_path / "kernels.json"
    done = run("--check", "--output", output)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    report = json.loads(output.read_text())
    assert set(report) >= {"device", "date", "versions", "command"}
    rows = [row for row in report["rows"] if row["contender"] == "ours"]
    assert {row["kernel"] for row in rows} == KERNELS
    assert {row["kernel"] for row in rows if row["pass"] == "backward"} == DIFFERENTIABLE
    for row in report["rows"]:
        assert row["passed"], row
        # The peers ran too; on a GPU, cuDNN need not take such small shapes.
        assert isinstance(row["error"], float) or torch.cuda.is_available(), row


def test_an_unknown_case_is_one_line(tmp_path: Path) -> None:
    done = run("--check", "--only", "no such kernel", "--output", tmp_path / "none.json")
    assert done.returncode == 2
    assert "--only 'no such kernel' matches no case" in done.stderr.splitlines()[-1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is something to measure")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    done = run("--output", tmp_path / "kernels.json")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert "no GPU" in done.stderr
    assert "--check" in done.stderr
    assert not list(tmp_path.iterdir())
