"""What a run writes: flat records, and the places they go to (a JSON-lines file, TensorBoard, Weights & Biases).

The screen is a sink too: live.py. Every start of a run writes one `run` record; the others follow. Keys in brackets
are left out where they are unknown.

    {"type": "run", "name": ..., "config": {...}, "time": ...}
    {"type": "train", "step": n, "loss": nats per token, "lr": ..., "grad_norm": ..., "tokens": consumed since step 0,
     "tokens_per_second_per_gpu": ..., "step_seconds": ..., "peak_memory_gib": of rank 0, "tflops_causal": per GPU,
     "tflops_full": per GPU, ["slowest_rank": ..., "slowest_rank_seconds": forward passes of a step, "median_rank_seconds": of
     the others of its pipeline stage,] ["mfu_causal": 0 to 1, "mfu_full": 0 to 1,] "time": unix seconds}
    {"type": "eval", "step": n, "set": name, "loss": ..., "perplexity": ...}
    {"type": "benchmark", "step": n, "set": name of a task or average, "score": percent of the way from guessing to perfect}
    {"type": "event", "step": n, "kind": "spike", "message": ...}

A number that is NaN or infinite becomes null in the file: strict JSON has no word for it, and a string would turn the
column into text for pandas, jq and pyarrow. A missing key means "not measured", null means "measured, not finite".
"""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

Record = Mapping[str, Any]

FILE_NAME = "log.jsonl"  # inside the folder of a run


class Sink(Protocol):
    """A place that records go to."""

    def write(self, record: Record) -> None:
        """Takes one record; it is on its way when this returns."""

    def close(self) -> None:
        """Finishes what was begun; nothing is written afterwards."""


class Log:
    """Hands every record to every sink. A context manager that closes them all."""

    def __init__(self, sinks: Iterable[Sink]) -> None:
        self._sinks = list(sinks)

    def write(self, record: Record) -> None:
        """Writes the record to every sink, in the order they were given."""
        for sink in self._sinks:
            sink.write(record)

    def close(self) -> None:
        """Closes every sink, the later ones also when an earlier one fails."""
        while self._sinks:
            try:
                self._sinks[0].close()
            finally:
                del self._sinks[0]

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def strict_json(record: Record) -> str:
    """The record as one line of strict JSON: NaN and infinities become null, at any depth. No line end."""
    return json.dumps(_finite(record), ensure_ascii=False, allow_nan=False, default=str)


def _finite(value: Any) -> Any:
    """The same value with every number that is not finite replaced by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a JSON-lines file in order; a half-written last line (a run that is writing, or died) is left out.

    Raises ValueError for an unreadable line before the last one.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            record = _parse(line)
            if record is not None:
                yield record
            elif line.endswith(b"\n") and line.strip():
                raise ValueError(f"{path} line {number} is not a JSON object; delete the line to go on")


def _parse(line: bytes) -> dict[str, Any] | None:
    """The record of one complete line; None for a line that is cut off or is no JSON object."""
    try:
        record = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


class JsonLines:
    """Appends records to a file, one line each, flushed at once so that a killed run loses nothing it had written.

    Args:
        path: The file; its folder is made.
        resume_step: Step of the checkpoint the run starts from (0: from the start). Records of later steps, which will
            be written again, and unreadable lines are dropped first; the file is replaced in one piece.
    """

    def __init__(self, path: Path, resume_step: int = 0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            _forget_after(path, resume_step)
        self._file = path.open("a", encoding="utf-8")

    def write(self, record: Record) -> None:
        """Appends one line."""
        self._file.write(strict_json(record) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _forget_after(path: Path, resume_step: int) -> None:
    """Rewrites the file without records of steps after `resume_step` and without unreadable lines."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    dropped = False
    with path.open("rb") as old, temporary.open("wb") as new:
        for line in old:
            record = _parse(line)
            if record is not None and record.get("step", 0) <= resume_step:
                new.write(line)
            else:
                dropped = True
        new.flush()
        os.fsync(new.fileno())
    if dropped:
        temporary.replace(path)
    else:
        temporary.unlink()


class TensorBoard:
    """Writes scalars as `train/loss`, `eval/<set>/loss`, ... and events as text.

    Args:
        folder: Folder of the event files.
        resume_step: Step of the checkpoint the run starts from; points of later steps, which will be written again,
            are hidden. None or 0 for a new run.
    """

    def __init__(self, folder: Path, resume_step: int | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter  # pulls in torch: not for readers of a log

        self._writer = SummaryWriter(str(folder), purge_step=resume_step + 1 if resume_step else None)

    def write(self, record: Record) -> None:
        """Writes every number of the record at its step."""
        if record["type"] == "run":
            text = json.dumps(_finite(record.get("config", {})), indent=2, ensure_ascii=False, default=str)
            self._writer.add_text("config", f"```json\n{text}\n```", 0)
        elif record["type"] == "event":
            self._writer.add_text(f"event/{record['kind']}", record["message"], record["step"])
        else:
            for tag, value in scalars(record).items():
                self._writer.add_scalar(tag, value, record["step"])

    def close(self) -> None:
        """Flushes and closes the event file."""
        self._writer.close()


def scalars(record: Record) -> dict[str, float]:
    """The numbers of a record by tag: `train/lr`, `eval/<set>/perplexity`, `benchmark/<set>/score`; not its step and time."""
    prefix = f"{record['type']}/{record['set']}" if "set" in record else str(record["type"])
    names = (name for name, value in record.items() if isinstance(value, int | float) and name not in ("step", "time"))
    return {f"{prefix}/{name}": float(record[name]) for name in names}


class WandB:
    """Logs to Weights & Biases; a run that is started again in the same folder goes on as the same run there.

    Args:
        project: Project name.
        folder: Folder of the run; the run's id is kept in `wandb_run_id` inside it.
        name: Name shown; None lets the service choose one.
    """

    def __init__(self, project: str, folder: Path, name: str | None = None) -> None:
        import wandb  # an extra; checks.py has made sure that it is there

        run_id = _stored_run_id(folder / "wandb_run_id")
        self._run = wandb.init(project=project, name=name, id=run_id, resume="allow", dir=str(folder))
        # The service's own step may only grow; a resumed run goes back to its checkpoint, so the step is a metric.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, record: Record) -> None:
        """Logs the numbers of the record, the configuration, or a mark for an event."""
        if record["type"] == "run":
            self._run.config.update(record.get("config", {}), allow_val_change=True)
        elif record["type"] == "event":
            # Not an alert: those are mailed, and a bad night has hundreds of spikes.
            self._run.summary[f"event/{record['kind']}"] = f"step {record['step']}: {record['message']}"
            self._run.log({f"event/{record['kind']}": 1, "step": record["step"]})
        else:
            self._run.log({**scalars(record), "step": record["step"]})

    def close(self) -> None:
        """Uploads what is left."""
        self._run.finish()


def _stored_run_id(path: Path) -> str:
    """The id kept in the file, or a new one that is put there."""
    if path.exists() and (stored := path.read_text(encoding="utf-8").strip()):
        return stored
    path.parent.mkdir(parents=True, exist_ok=True)
    run_id = secrets.token_hex(8)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(run_id + "\n", encoding="utf-8")
    temporary.replace(path)
    return run_id
