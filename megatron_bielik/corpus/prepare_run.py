"""Runs the stages of a plan: here, with a line of progress; as chained Slurm jobs; or on a Ray cluster."""

from __future__ import annotations

import multiprocessing
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from datatrove.executor import LocalPipelineExecutor, SlurmPipelineExecutor
from loguru import logger
from rich.console import Console

from megatron_bielik.corpus.prepare import Plan, Stage, finished
from megatron_bielik.data.errors import DataError, write_error
from megatron_bielik.data.processes import follow_parent, locked

logger.disable("datatrove")  # its commentary, in this process and its workers; jobs on Slurm keep their logs


def run(plan: Plan, overwrite: bool = False, say: Callable[[str], None] = lambda _: None) -> dict[str, Any] | None:
    """Do what is not done yet.

    Args:
        plan: Of prepare.make_plan.
        overwrite: Replace results of other options or inputs.
        say: Takes lines for the user.

    Returns:
        The report; none when jobs were submitted and the report is theirs to write.

    Raises:
        DataError: Results of other work in the way, a second run on the same folder, or a disk that refuses.
    """
    report = finished(plan)
    if report is not None:
        say(f"{plan.output} is complete already; nothing to do")
        return report
    if (plan.output / "report.json").exists() and not overwrite:
        raise DataError(
            f"{plan.output} holds results of other options or inputs; give another output.folder, or --overwrite to replace them "
            "(results of an earlier version are others, too)"
        )
    kind = plan.config.executor.kind
    with locked(plan.output / "work", "give another output.folder"):
        try:
            {"local": _run_here, "slurm": _submit, "ray": _run_on_ray}[kind](plan, say)
        except OSError as error:
            raise write_error(Path(error.filename or plan.output), error) from error
        if kind == "slurm":
            return None
        report = finished(plan)
        if report is None:
            raise DataError(f"{plan.output}: the last stage left no report; see the logs in {plan.output / 'work'}")
        if not plan.config.output.keep_work:
            shutil.rmtree(plan.output / "work", ignore_errors=True)
    return report


def _run_here(plan: Plan, say: Callable[[str], None]) -> None:
    """One pool of processes for all stages, since each takes seconds to import everything."""
    workers = min(plan.config.executor.workers, max(stage.tasks for stage in plan.stages))
    with _pool(workers) as pool:
        for number, stage in enumerate(plan.stages, 1):
            executor = LocalPipelineExecutor(stage.steps, stage.tasks, logging_dir=str(stage.folder))
            with _progress(stage, number, len(plan.stages), say):
                ranks = executor.get_incomplete_ranks()
                running = [pool.submit(_run_task, executor, rank) for rank in ranks] if pool else []
                try:
                    for rank in ranks if pool is None else ():
                        # A copy: a task must find the steps as they were made.
                        _run_task(deepcopy(executor), rank)
                    for task in as_completed(running):
                        task.result()
                except BrokenProcessPool as error:
                    raise DataError(
                        "a worker process died, perhaps for want of memory; run the same command again, "
                        "with fewer executor.workers"
                    ) from error
                finally:
                    for task in running:
                        task.cancel()


def _start_worker() -> None:
    logger.disable("datatrove")
    follow_parent()


def _run_task(executor: LocalPipelineExecutor, rank: int) -> None:
    executor._run_for_rank(rank)


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor | None]:
    if workers == 1:
        yield None
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start_worker) as pool:
        yield pool


@contextmanager
def _progress(stage: Stage, number: int, stages: int, say: Callable[[str], None]) -> Iterator[None]:
    """Tasks done of the stage, on a terminal as they come, else a line at its end."""
    console, begun, done = Console(stderr=True), time.monotonic(), threading.Event()
    name = f"{number}/{stages} {stage.name}"

    def show(status: Any) -> None:
        known = _completed(stage)
        while not done.wait(0.5):
            count, seconds = _completed(stage), time.monotonic() - begun
            left = seconds / (count - known) * (stage.tasks - count) if count > known else None
            eta = "" if left is None else f", {left / 60:.1f} min left"
            status.update(f"{name}: {count} of {stage.tasks} tasks, {seconds:.0f} s{eta}")

    if console.is_terminal:
        with console.status(name) as status:
            thread = threading.Thread(target=show, args=(status,), daemon=True)
            thread.start()
            try:
                yield
            finally:
                done.set()
                thread.join()
    else:
        yield
    say(f"{name}: {stage.tasks} tasks, {time.monotonic() - begun:.1f} s")


def _completed(stage: Stage) -> int:
    return sum(1 for _ in (stage.folder / "completions").glob("*"))


def _submit(plan: Plan, say: Callable[[str], None]) -> None:
    options, previous = plan.config.executor, None
    if shutil.which("sbatch") is None:
        raise DataError("executor.kind is slurm, but there is no sbatch on this machine; run it on a login node")
    for stage in plan.stages:
        previous = SlurmPipelineExecutor(
            stage.steps,
            stage.tasks,
            options.time,
            options.partition,
            options.cpus_per_task,
            options.mem_per_cpu_gb,
            workers=options.workers if stage.tasks > 1 else -1,
            job_name=f"corpus-{stage.name}",
            venv_path=str(Path(options.venv_path or sys.prefix) / "bin" / "activate"),
            sbatch_args=options.sbatch_args,
            logging_dir=str(stage.folder.resolve()),
            depends=previous,
            mail_type="NONE",
        )
    if previous is not None:
        try:
            previous.run()
        except subprocess.CalledProcessError as error:
            raise DataError(
                f"sbatch refused a job (exit code {error.returncode}); check executor.partition and executor.sbatch_args"
            ) from error
        say(f"submitted {len(plan.stages)} jobs; {plan.output}/report.json is written by the last one")


def _run_on_ray(plan: Plan, say: Callable[[str], None]) -> None:
    from datatrove.executor import RayPipelineExecutor

    options = plan.config.executor
    for number, stage in enumerate(plan.stages, 1):
        with _progress(stage, number, len(plan.stages), say):
            RayPipelineExecutor(
                stage.steps,
                stage.tasks,
                workers=options.workers,
                cpus_per_task=options.cpus_per_task,
                mem_per_cpu_gb=options.mem_per_cpu_gb,
                logging_dir=str(stage.folder.resolve()),
            ).run()
