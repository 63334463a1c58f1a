"""Benchmarks of checkpoints by a process beside the training: started when a checkpoint is complete, read when it has ended.

A checkpoint that is to be evaluated is linked into benchmarks/step_N first, so that its removal does not matter. A process
that was killed with the training is started again; what it had done is kept.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch.distributed as dist

from megatron_bielik import checkpoint_files as files
from megatron_bielik.config import BenchmarksConfig
from megatron_bielik.training.callbacks import Callback
from megatron_bielik.training.log import FILE_NAME, read_records
from megatron_bielik.training.step import StepResult

if TYPE_CHECKING:
    from megatron_bielik.training.trainer import Trainer

CHECKPOINT, RESULTS, OUTPUT = "checkpoint", "results.json", "output.txt"
_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
_POLL_SECONDS = 0.5


class Benchmarks(Callback):
    """Starts, watches and logs the evaluations; one at a time, on rank 0.

    Args:
        options: What is evaluated, and where.
        folder: Of the run.
        rank: Of this process.
    """

    name = "benchmarks"

    def __init__(self, options: BenchmarksConfig, folder: Path, rank: int) -> None:
        self._options, self._run, self._folder = options, folder, folder / "benchmarks"
        self._here = rank == 0 and options.interval > 0
        self._waiting: list[int] = []
        self._running: tuple[int, subprocess.Popen[bytes]] | None = None

    def on_start(self, trainer: Trainer) -> None:
        """Take up what an earlier process of this run left: evaluations that did not end, results that were not logged."""
        if not self._here or not self._folder.is_dir():
            return
        for path in list(self._folder.iterdir()):  # of a run that was taken back to an earlier step
            if (files.step_of_name(path.name) or 0) > trainer.step:
                shutil.rmtree(path)
        logged = {one["step"] for one in read_records(self._run / FILE_NAME) if one.get("type") == "benchmark"}
        steps = (files.step_of_name(path.name) for path in self._folder.iterdir())
        self._waiting = sorted(step for step in steps if step is not None and step not in logged)

    def on_step(self, trainer: Trainer, result: StepResult) -> None:
        if not self._here:
            return
        last = trainer.step == trainer.config.training.steps
        if trainer.step % self._options.interval == 0 or last:
            self._waiting.append(trainer.step)
        self._advance(trainer, all_saved=False)

    def on_end(self, trainer: Trainer) -> None:
        """After the last step wait for what is left; a run that stops early ends it, and goes on with it when started again."""
        if not self._options.interval:
            return
        if trainer.stopping is not None:
            self._stop()
            return
        while True:
            trainer.alive("waiting for benchmarks")
            if self._here:
                self._advance(trainer, all_saved=True)
            left = [bool(self._running or self._waiting)]
            dist.broadcast_object_list(left, src=0)
            if not left[0]:
                return
            time.sleep(_POLL_SECONDS)

    def _advance(self, trainer: Trainer, all_saved: bool) -> None:
        """Log what has ended, start what is next. A checkpoint that is not there is still being written, or was left out."""
        if self._running is not None and self._running[1].poll() is not None:
            step, process = self._running
            self._running = None
            self._log(trainer, step, process.returncode)
        while self._running is None and self._waiting:
            checkpoint = self._run / files.CHECKPOINTS / files.name_of_step(self._waiting[0])
            folder = self._folder / files.name_of_step(self._waiting[0])
            if (folder / RESULTS).is_file():
                self._log(trainer, self._waiting.pop(0), code=0)
                continue
            if not (folder / CHECKPOINT).is_dir() and not checkpoint.is_dir():
                if not all_saved and trainer.step < self._waiting[0] + self._options.interval:
                    return
                self._waiting.pop(0)
                continue
            self._running = self._waiting.pop(0), self._start(checkpoint, folder)

    def _start(self, checkpoint: Path, folder: Path) -> subprocess.Popen[bytes]:
        """Link the checkpoint and start the process, free of the launcher's variables."""
        if not (folder / CHECKPOINT).is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            unfinished = folder / f".{CHECKPOINT}"
            shutil.rmtree(unfinished, ignore_errors=True)
            try:
                shutil.copytree(checkpoint, unfinished, copy_function=os.link)
            except (OSError, shutil.Error):  # a file system without hard links
                shutil.rmtree(unfinished, ignore_errors=True)
                shutil.copytree(checkpoint, unfinished)
            unfinished.rename(folder / CHECKPOINT)
        options = self._options
        command = [sys.executable, "-m", "megatron_bielik.evaluation.checkpoint_job", "--folder", str(folder)]
        command += ["--starter", str(os.getpid())]
        command += ["--tasks", *options.tasks, "--num-fewshot", str(options.num_fewshot)]
        command += ["--data", options.data] if options.data else []
        command += ["--limit", str(options.limit)] if options.limit is not None else []
        kind, _, number = options.device.partition(":")
        command += ["--device", kind]
        kept = {
            name: value for name, value in os.environ.items() if name not in _LAUNCHER and "TORCHELASTIC" not in name
        }
        kept |= {
            "OMP_NUM_THREADS": str(options.threads),
            "CUDA_VISIBLE_DEVICES": (number or "0") if kind == "cuda" else "",
        }
        with (folder / OUTPUT).open("ab") as output:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=kept,
                start_new_session=True,
            )

    def _log(self, trainer: Trainer, step: int, code: int) -> None:
        folder = self._folder / files.name_of_step(step)
        if code != 0 or not (folder / RESULTS).is_file():
            lines = (folder / OUTPUT).read_text(encoding="utf-8", errors="replace").strip().splitlines()
            trainer.event("benchmarks", f"step {step} was not evaluated: {lines[-1] if lines else f'exit code {code}'}")
            return
        results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        scores = results["averages"] | {name: one["normalised"] for name, one in results["tasks"].items()}
        for name, score in scores.items():
            trainer.log.write({"type": "benchmark", "step": step, "set": name, "score": score, "time": time.time()})

    def _stop(self) -> None:
        if self._running is not None:
            self._running[1].terminate()
            self._running[1].wait()
            self._running = None
