"""Reads what a run of the recipe left in its folder: logs, scores and reports of every stage, as far as they are there."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from megatron_bielik.training.log import FILE_NAME, read_records

# Folder of each training, by the name the report gives it, and its processes.
TRAININGS = {"base": ("base-run", 2), "stage 1": ("stage1", 4), "stage 2": ("stage2", 4), "SFT": ("sft", 1),
             "DPO-P": ("dpo", 1), "GRPO": ("grpo", 1)}  # fmt: skip
Json = Any


@dataclass(frozen=True)
class Training:
    """One training's log.

    Attributes:
        folder: Of the run.
        train, evals: Records in order, each step as it was logged last.
        events: Number by kind.
        seconds: From the first record to the last of the process that ended it.
        tokens_per_second: Median over the steps, of all processes.
    """

    folder: Path
    train: list[dict[str, Json]]
    evals: list[dict[str, Json]]
    events: dict[str, int]
    seconds: float
    tokens_per_second: float

    def evaluated(self, key: str, name: str | None = None) -> list[tuple[int, float]]:
        """Step and value of an evaluated figure, of one set if it is named."""
        return [(one["step"], one[key]) for one in self.evals if key in one and name in (None, one.get("set"))]

    def logged(self, key: str) -> list[tuple[int, float]]:
        """Step and value of a figure of the training steps."""
        return [(one["step"], one[key]) for one in self.train if one.get(key) is not None]


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


def read_training(folder: Path, processes: int) -> Training | None:
    """The log of a run, or None where it has none yet."""
    if not (folder / FILE_NAME).is_file():
        return None
    train: dict[int, dict[str, Json]] = {}
    evals: dict[tuple[int, str], dict[str, Json]] = {}
    events: dict[str, int] = {}
    times: list[float] = []
    for record in read_records(folder / FILE_NAME):
        kind = record.get("type")
        if kind == "run":
            times = []
        if "time" in record:
            times.append(record["time"])
        if kind == "train":
            train[record["step"]] = record
        elif kind == "eval":
            evals[record["step"], record.get("set", "")] = record
        elif kind == "event":
            events[record["kind"]] = events.get(record["kind"], 0) + 1
    rates = [one["tokens_per_second_per_gpu"] for one in train.values() if "tokens_per_second_per_gpu" in one]
    return Training(
        folder,
        [train[step] for step in sorted(train)],
        [evals[key] for key in sorted(evals)],
        events,
        times[-1] - times[0] if times else 0.0,
        processes * statistics.median(rates) if rates else 0.0,
    )


def read_run(folder: Path) -> RecipeRun:
    """Read a folder that examples/recipe/run.sh made.

    Raises:
        ValueError: It is none, or a file in it is damaged; the file is named.
    """
    if not (folder / "params.yaml").is_file():
        raise ValueError(f"--folder is {folder}: no params.yaml in it; give the folder of a recipe run")
    found = {name: read_training(folder / place, processes) for name, (place, processes) in TRAININGS.items()}
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    if missing := {"scored", "merges", "evaluated", "tokenizer"} - set(params):
        raise ValueError(f"{folder / 'params.yaml'} has no {min(missing)!r}; start examples/recipe/run.sh again")
    return RecipeRun(
        folder,
        {name: one for name, one in found.items() if one is not None},
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
