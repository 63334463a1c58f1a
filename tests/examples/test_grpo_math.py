"""The GRPO experiment at the smallest size: every stage runs, and the guard stops the gamed run."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.conftest import script_environment

SCRIPT = Path(__file__).parents[2] / "examples" / "experiments" / "grpo_math" / "run.sh"


def run_quick(output: Path) -> str:
    environment = script_environment(QUICK="1", OMP_NUM_THREADS="1")
    done = subprocess.run(
        [str(SCRIPT), str(output)], capture_output=True, text=True, timeout=280, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-4000:]
    return done.stdout


def test_every_stage_and_the_guard(tmp_path: Path) -> None:
    output = tmp_path / "out"
    printed = run_quick(output)
    assert printed.count("model written to") == 3  # SFT, GRPO, and the gamed run without the guard
    results = json.loads((output / "results.json").read_text())
    assert results["held_out_problems"] == 8
    # The trainer's batched answers and those made one by one by other code are judged alike.
    assert results["right_after_sft"] == results["right_after_sft_made_again"]
    assert results["right_after_grpo"] == results["right_after_grpo_made_again"]
    assert (results["grpo"]["steps"], results["grpo"]["stopped"]) == (4, None)
    assert (results["gamed"]["steps"], results["gamed"]["stopped"]) == (4, None)
    assert "more than loss.kl_limit 1e-05" in results["guarded"]["stopped"]
    assert results["guarded"]["steps"] < 4
    assert results["guarded"]["kl"][-1] > 1e-5
    assert list((output / "guarded").glob("checkpoint-*"))
    assert not (output / "guarded" / "final").exists()
    for name in ("learning", "gamed"):
        assert (output / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
