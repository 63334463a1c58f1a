"""Clears a training's folder if it was begun with other inputs, so that a killed training goes on and a changed one begins anew.

begin.py RUN INPUT...: an input is a file, a folder, or anything else, which counts as it is written.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path

from megatron_bielik.corpus.records import write_whole

NAME = "inputs.sha256"


def digest(inputs: list[str]) -> str:
    """SHA-256 over the names and contents of files, in order."""
    total = hashlib.sha256()
    for given in inputs:
        path = Path(given)
        files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
        total.update(repr(given).encode())
        for file in files:
            if given and file.is_file():
                total.update(repr(str(file)).encode())
                total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def main() -> None:
    """Compare, clear, write down."""
    if len(sys.argv) < 3:
        sys.exit(f"usage: {__doc__}")
    run, wanted = Path(sys.argv[1]), digest(sys.argv[2:]) + "\n"
    mark = run / NAME
    if mark.is_file() and mark.read_text() == wanted:
        return
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True)
    write_whole(mark, wanted)


if __name__ == "__main__":
    main()
