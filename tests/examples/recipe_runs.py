"""Runs of the whole recipe at its smallest sizes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

from tests.conftest import script_environment

FOLDER = Path(__file__).parents[2] / "examples" / "recipe"
ENVIRONMENT = script_environment(QUICK="1", OMP_NUM_THREADS="1")


def start(folder: Path, *stages: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(FOLDER / "run.sh"), str(folder), *stages],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT, start_new_session=True,
    )  # fmt: skip


def run(folder: Path, *stages: str, timeout: float = 1200) -> str:
    process = start(folder, *stages)
    try:
        output, _ = process.communicate(timeout=timeout)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, output[-5000:]
    return output


def ran(output: str) -> list[str]:
    return re.findall(r"^Running stage '(.+)':", output, re.MULTILINE)
