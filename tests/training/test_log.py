"""Records as strict JSON, resume, half-written lines, TensorBoard, Weights & Biases without and with the package."""

from __future__ import annotations

import json
import math
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from megatron_bielik.training.log import JsonLines, Log, TensorBoard, WandB, read_records, scalars, strict_json


def train(step: int, **values: Any) -> dict[str, Any]:
    return {"type": "train", "step": step, "loss": 10.0 - step, **values}


def steps(path: Path) -> list[int]:
    return [record["step"] for record in read_records(path) if record["type"] == "train"]


def strict(line: str) -> Any:
    """Reads as a reader that knows no NaN."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(line, parse_constant=refuse)


def test_not_finite_is_null_at_any_depth() -> None:
    record = {"loss": math.nan, "lr": math.inf, "config": {"a": [1.5, -math.inf], "path": Path("x"), "ł": None}}
    assert strict(strict_json(record)) == {
        "loss": None,
        "lr": None,
        "config": {"a": [1.5, None], "path": "x", "ł": None},
    }


def test_every_line_is_on_disk_at_once(tmp_path: Path) -> None:
    sink = JsonLines(tmp_path / "run" / "log.jsonl")
    for step in range(3):
        sink.write(train(step))
        assert len((tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()) == step + 1
    sink.close()


def test_resume_drops_later_steps_and_keeps_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with Log([JsonLines(path)]) as log:
        log.write({"type": "run", "config": {}})
        for step in range(1, 11):
            log.write(train(step))
        log.write({"type": "event", "step": 9, "kind": "spike", "message": "m"})
        log.write({"type": "eval", "step": 4, "set": "pl", "loss": 2.0, "perplexity": 7.4})
    with Log([JsonLines(path, resume_step=6)]) as log:
        log.write({"type": "run", "config": {}})
        log.write(train(7))
    kinds = [record["type"] for record in read_records(path)]
    assert steps(path) == [1, 2, 3, 4, 5, 6, 7]
    assert kinds.count("run") == 2
    assert kinds.count("eval") == 1
    assert kinds.count("event") == 0
    assert list(tmp_path.iterdir()) == [path]  # no temporary file is left


def test_half_written_last_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(strict_json(train(1)) + "\n" + strict_json(train(2))[:-7], encoding="utf-8")
    assert steps(path) == [1]
    sink = JsonLines(path, resume_step=5)
    sink.write(train(2))
    sink.close()
    assert steps(path) == [1, 2]


def test_unreadable_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"type": "run"}\n[1]\n{"type": "run"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="line 2"):
        list(read_records(path))


def test_nothing_to_drop_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(strict_json(train(1)) + "\n", encoding="utf-8")
    inode = path.stat().st_ino
    JsonLines(path, resume_step=1).close()
    assert path.stat().st_ino == inode


def test_scalars_are_named_by_kind_and_set() -> None:
    assert scalars(train(3, lr=1e-4, time=5.0, note="text")) == {"train/loss": 7.0, "train/lr": 1e-4}
    record = {"type": "eval", "step": 1, "set": "polish", "loss": 2.0, "perplexity": 7.4}
    assert scalars(record) == {"eval/polish/loss": 2.0, "eval/polish/perplexity": 7.4}


def test_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = TensorBoard(tmp_path)
    first.write({"type": "run", "config": {"training": {"steps": 9}}})
    for step in range(1, 7):
        first.write(train(step))
    first.close()
    second = TensorBoard(tmp_path, resume_step=3)
    second.write({"type": "train", "step": 4, "loss": 0.5})
    second.write({"type": "event", "step": 4, "kind": "spike", "message": "m"})
    second.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [
        (1, 9.0),
        (2, 8.0),
        (3, 7.0),
        (4, 0.5),
    ]


class FakeRun:
    """What the sink uses of a wandb run."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments
        self.logged: list[dict[str, Any]] = []
        self.summary: dict[str, str] = {}
        self.config = types.SimpleNamespace(update=lambda config, allow_val_change: None)

    def define_metric(self, name: str, step_metric: str | None = None) -> None: ...

    def log(self, values: dict[str, Any]) -> None:
        self.logged.append(values)

    def finish(self) -> None: ...


def test_wandb_goes_on_as_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[FakeRun] = []

    def init(**arguments: Any) -> FakeRun:
        runs.append(FakeRun(**arguments))
        return runs[-1]

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    for step in (1, 2):
        with Log([WandB("project", tmp_path / "run", name="n")]) as log:
            log.write({"type": "run", "config": {"a": 1}})
            log.write(train(step))
            log.write({"type": "event", "step": step, "kind": "spike", "message": "m"})
    first, second = runs
    assert first.arguments == second.arguments
    assert first.arguments["resume"] == "allow"
    assert second.logged == [{"train/loss": 8.0, "step": 2}, {"event/spike": 1, "step": 2}]
    assert second.summary == {"event/spike": "step 2: m"}


def test_every_sink_is_closed_when_one_fails(tmp_path: Path) -> None:
    closed: list[str] = []

    class Sink:
        def __init__(self, name: str) -> None:
            self.name = name

        def write(self, record: Any) -> None: ...

        def close(self) -> None:
            closed.append(self.name)
            if self.name == "a":
                raise OSError("disk full")

    log = Log([Sink("a"), Sink("b")])
    with pytest.raises(OSError, match="disk full"):
        log.close()
    log.close()
    assert closed == ["a", "b"]
