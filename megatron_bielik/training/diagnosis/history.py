"""The log of a run of any kind in a form that checks can read: figures over steps, evaluations, events, starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from megatron_bielik.training.log import FILE_NAME, read_records

Method = Literal["pretraining", "SFT", "DPO", "GRPO"]
Floats = npt.NDArray[np.float64]
Steps = npt.NDArray[np.int64]
FEWEST = 20  # logged steps from which on a trend is looked for


@dataclass(frozen=True)
class Start:
    """A process of the run: the step it started from, its options, and when."""

    step: int
    config: Mapping[str, Any]
    time: float | None


@dataclass(frozen=True)
class Event:
    """Something that happened at a step."""

    step: int
    kind: str
    message: str
    time: float | None = None


@dataclass(frozen=True)
class History:
    """What a run wrote.

    Attributes:
        folder: Of the run.
        starts: In order.
        train: Records of steps in order; of a step that was logged twice, the last.
        evals: Records of evaluations by set, in order of their steps; the last of a step.
        benchmarks: The same, of benchmarks.
        events: In order.
        times: Time and step of every record that has one, in the order of the file.
    """

    folder: Path
    starts: tuple[Start, ...] = ()
    train: tuple[dict[str, Any], ...] = ()
    evals: Mapping[str, tuple[dict[str, Any], ...]] = field(default_factory=dict)
    benchmarks: Mapping[str, tuple[dict[str, Any], ...]] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    times: tuple[tuple[str, int, float], ...] = ()

    @property
    def config(self) -> Mapping[str, Any]:
        """Options of the last start."""
        return self.starts[-1].config if self.starts else {}

    @property
    def method(self) -> Method:
        """What kind of run it is, by its options."""
        if "rewards" in self.config:
            return "GRPO"
        if "beta" in self.config.get("loss", {}):
            return "DPO"
        return "SFT" if "path" in self.config.get("model", {}) else "pretraining"

    @cached_property
    def last_step(self) -> int:
        """The last step that anything was logged of."""
        return max((step for _, step, _ in self.times), default=0)

    @property
    def total_steps(self) -> int | None:
        """Steps that were asked for; none where the run's options give epochs."""
        return self.option("training", "steps")

    def option(self, section: str, name: str, default: Any = None) -> Any:
        """An option of the last start."""
        return self.config.get(section, {}).get(name, default)

    def series(self, name: str) -> tuple[Steps, Floats]:
        """Steps and values of a figure; NaN where it was not finite, nothing where it was not logged."""
        return _series(self.train, name)

    def events_of(self, kind: str) -> tuple[Event, ...]:
        """Events of one kind."""
        return tuple(event for event in self.events if event.kind == kind)


def evaluated(records: tuple[dict[str, Any], ...], name: str) -> tuple[Steps, Floats]:
    """Steps and values of a figure of one evaluation set."""
    return _series(records, name)


def fifth(values: Floats, number: int) -> Floats:
    """One of five parts of a series, 0 to 4; values that are not finite are left out."""
    bounds = [round(len(values) * part / 5) for part in range(6)]
    part = values[bounds[number] : bounds[number + 1]]
    return part[np.isfinite(part)]


def read_history(path: Path) -> History:
    """Read the log of a run's folder, or a log.jsonl.

    Raises:
        FileNotFoundError: There is no log.
        ValueError: A line of it cannot be read, or there are no records of a run in it.
    """
    file = path / FILE_NAME if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"{file} not found; give the folder of a run, which has a {FILE_NAME}")
    starts: list[Start] = []
    train: dict[int, dict[str, Any]] = {}
    tables: dict[str, dict[str, dict[int, dict[str, Any]]]] = {"eval": {}, "benchmark": {}}
    events: list[Event] = []
    times: list[tuple[str, int, float]] = []
    for number, record in enumerate(read_records(file), 1):
        try:
            kind, step = record["type"], int(record.get("step", 0))
            if record.get("time") is not None:
                times.append((kind, step, float(record["time"])))
            else:
                times.append((kind, step, float("nan")))
            if kind == "run":
                starts.append(Start(step, dict(record.get("config") or {}), record.get("time")))
            elif kind == "train":
                train[step] = record
            elif kind in tables:
                tables[kind].setdefault(record["set"], {})[step] = record
            elif kind == "event":
                events.append(Event(step, record["kind"], record["message"], record.get("time")))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file} line {number} is no record of a run ({error!r}); see training/log.py") from None
    if not (starts or train or events or any(tables.values())):
        raise ValueError(f"{file} holds no records of a run yet; nothing to look at")
    ordered = {kind: {name: _in_order(rows) for name, rows in table.items()} for kind, table in tables.items()}
    return History(
        file.parent, tuple(starts), _in_order(train), ordered["eval"], ordered["benchmark"], tuple(events), tuple(times)
    )


def _in_order(rows: Mapping[int, dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    return tuple(rows[step] for step in sorted(rows))


def _series(records: tuple[dict[str, Any], ...], name: str) -> tuple[Steps, Floats]:
    found = [(record["step"], record[name]) for record in records if name in record]
    steps = np.array([step for step, _ in found], dtype=np.int64)
    return steps, np.array([np.nan if value is None else value for _, value in found], dtype=np.float64)
