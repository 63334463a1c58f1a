"""Checkpoints of a post-training run: only those count that were written to the end."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from megatron_bielik.checkpoint_files import set_aside
from megatron_bielik.posttrain.errors import RunError

FINAL = "final"
_STATE, _UNFINISHED = "run_state.json", ".unfinished"
_NAME = re.compile(r"checkpoint-(\d+)")


def newest(folder: Path) -> Path | None:
    """The complete checkpoint with the most steps, None if there is none."""
    complete = all_complete(folder)
    return complete[-1] if complete else None


def step_of(checkpoint: Path) -> int:
    """The step after which it was written."""
    match = _NAME.fullmatch(checkpoint.name)
    assert match is not None
    return int(match[1])


def begin(checkpoint: Path) -> None:
    """Mark a checkpoint as being written, before any other of its files; complete() takes the mark away."""
    checkpoint.mkdir(parents=True, exist_ok=True)
    (checkpoint / _UNFINISHED).touch()


def remove_unfinished(folder: Path) -> list[str]:
    """Take away what a killed process left half-written. What bears no mark of that is renamed, not removed.

    Returns:
        What was renamed, in sentences.
    """
    renamed = []
    for path in _all(folder):
        if (path / _STATE).is_file():
            continue
        if (path / _UNFINISHED).is_file():
            shutil.rmtree(path)
        else:
            aside = set_aside(path)
            renamed.append(f"{path.name} has no {_STATE}, so no run goes on from it: renamed to {aside.name}")
    return renamed


def complete(checkpoint: Path, state: dict[str, Any], keep_last: int) -> None:
    """Say that a checkpoint is whole, which its state file does, then take away older ones.

    Args:
        checkpoint: All its other files are written.
        state: What the run itself keeps, plain values.
        keep_last: Newest checkpoints kept; 0 keeps all.
    """
    temporary = checkpoint / f".{_STATE}.tmp"
    temporary.write_text(json.dumps(state), encoding="utf-8")
    temporary.replace(checkpoint / _STATE)
    (checkpoint / _UNFINISHED).unlink(missing_ok=True)
    for old in all_complete(checkpoint.parent)[:-keep_last] if keep_last else []:
        begin(old)  # a folder that is being deleted is no checkpoint, and the next start may finish that
        (old / _STATE).unlink()
        shutil.rmtree(old)


def state_of(checkpoint: Path) -> dict[str, Any]:
    """What the run kept beside its weights. Raises RunError where that cannot be read."""
    try:
        state: dict[str, Any] = dict(json.loads((checkpoint / _STATE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise RunError(
            f"{checkpoint / _STATE} is damaged ({error}): remove {checkpoint} to go on from an earlier checkpoint"
        ) from None
    return state


def _all(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("checkpoint-*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=step_of)


def all_complete(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, in order."""
    return [path for path in _all(folder) if (path / _STATE).is_file()]
