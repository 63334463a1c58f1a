"""Reads what a run of the recipe left in its folder: logs, scores and reports of every stage, as far as they are there."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from megatron_bielik.training.diagnosis.history import History, evaluated, read_history
from megatron_bielik.training.log import FILE_NAME

# Folder of each training, by the name the report gives it, and its processes.
TRAININGS = {"base": ("base-run", 2), "stage 1": ("stage1", 4), "stage 2": ("stage2", 4), "SFT": ("sft", 1),
             "DPO-P": ("dpo", 1), "GRPO": ("grpo", 1)}  # fmt: skip
Json = Any


@dataclass(frozen=True)
class Training:
    """One training's log, and the number of its processes."""

    history: History
    processes: int

    @property
    def seconds(self) -> float:
        """From the first record to the last of the process that ended it."""
        last = max((place for place, (kind, *_) in enumerate(self.history.times) if kind == "run"), default=0)
        times = [time for _, _, time in self.history.times[last:] if math.isfinite(time)]
        return times[-1] - times[0] if times else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Median over the logged steps, of all processes."""
        rates = self.logged("tokens_per_second_per_gpu")
        return self.processes * statistics.median(rate for _, rate in rates) if rates else 0.0

    def logged(self, key: str) -> list[tuple[int, float]]:
        """Step and value of a figure of the training steps; NaN where it was not finite."""
        steps, values = self.history.series(key)
        return list(zip(steps.tolist(), values.tolist(), strict=True))

    def evaluated(self, key: str, name: str) -> list[tuple[int, float]]:
        """The same of an evaluation set."""
        steps, values = evaluated(self.history.evals.get(name, ()), key)
        return list(zip(steps.tolist(), values.tolist(), strict=True))


@dataclass(frozen=True)
class RecipeRun:
    """Everything the report is made of; a part whose stage did not run yet is empty."""

    folder: Path
    trainings: dict[str, Training]
    first_losses: dict[str, float]
    fertility: list[dict[str, Json]]
    quality: dict[str, Json]
    corpus: dict[str, Json]
    scores: dict[str, dict[str, Json]]
    merges: dict[str, list[str]]
    benchmarks: dict[str, dict[str, Json]]
    upscaling: dict[str, Json]
    vocabulary: int


def read_run(folder: Path) -> RecipeRun:
    """Read a folder that examples/recipe/run.sh made.

    Raises:
        ValueError: It is none, or a file in it is damaged; the file is named.
    """
    if not (folder / "params.yaml").is_file():
        raise ValueError(f"--folder is {folder}: no params.yaml in it; give the folder of a recipe run")
    begun = {name: one for name, one in TRAININGS.items() if (folder / one[0] / FILE_NAME).is_file()}
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    if missing := {"scored", "merges", "evaluated", "tokenizer"} - set(params):
        raise ValueError(f"{folder / 'params.yaml'} has no {min(missing)!r}; start examples/recipe/run.sh again")
    return RecipeRun(
        folder,
        {name: Training(read_history(folder / place), processes) for name, (place, processes) in begun.items()},
        {one["name"]: one["per_character"] for one in _read(folder / "focus" / "first_loss.json", [])},
        _read(folder / "fertility.json", []),
        _read(folder / "quality.report" / "report.json", {}),
        _read(folder / "corpus" / "report.json", {}),
        {name: _read(folder / "scores" / f"{name}.json", {}) for name in params["scored"]},
        params["merges"],
        {name: _read(folder / "benchmarks" / name / "results.json", {}) for name in params["evaluated"]},
        _read(folder / "start" / "depth_upscaling.json", {}),
        params["tokenizer"]["entries"],
    )


def _read(path: Path, otherwise: Json) -> Json:
    if not path.is_file():
        return otherwise
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); remove it and run the stage again") from None
