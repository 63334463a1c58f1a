"""Other versions of packages, which cannot stand in this environment: installed once, into folders of their own."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.conftest import ROOT


def peer_environment(name: str) -> dict[str, str]:
    """Environment in which this Python imports a peer's packages first, and everything else from here.

    What a peer is made of stands in constraints.txt, in its line "# peer NAME: ...". The test is skipped where the packages
    cannot be had.
    """
    found = re.search(rf"^# peer {re.escape(name)}: (.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found, f"constraints.txt has no peer {name}"
    key = hashlib.sha256(f"{found[1]} {sys.version}".encode()).hexdigest()[:8]
    folder = Path(sys.prefix) / "peers" / f"{name}-{key}"
    if not folder.is_dir():
        folder.parent.mkdir(exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent))
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(temporary)]
        done = subprocess.run([*command, *found[1].split()], capture_output=True, text=True, timeout=250)
        if done.returncode != 0:
            shutil.rmtree(temporary)
            pytest.skip(f"{found[1]} cannot be installed: {done.stderr.strip().splitlines()[-1]}")
        try:
            temporary.rename(folder)
        except OSError:  # another process was first
            shutil.rmtree(temporary)
    return {**os.environ, "PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
