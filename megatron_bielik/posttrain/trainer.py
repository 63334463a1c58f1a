"""What SFT, DPO and GRPO share of the loop, put before TRL's trainers: schedule, skipped steps, checkpoints, the log."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import PrinterCallback, Trainer, TrainerCallback

from megatron_bielik.posttrain import checkpoints
from megatron_bielik.posttrain.checks import AnyConfig
from megatron_bielik.posttrain.order import RowStream
from megatron_bielik.training.log import Log
from megatron_bielik.training.schedule import learning_rate

STOP_REASONS = {1: "the time limit was reached", 2: "SIGTERM was received", 3: "SIGUSR1 was received"}


class RunTrainer(Trainer):
    """Base of the three trainers; comes before TRL's in the order of methods.

    Attributes:
        config: Options of the run.
        log_sinks: The run's log; set before train().
        step_record: Figures that the step in progress adds to its record, set by subclasses.
        step_tokens: Tokens of the step in progress, over all ranks.
        why_stopped: None, or why the run ends before its last step.
        failed: Whether it ends because something is wrong.
        identity: What the checkpoints hold of the run; set before train().
        write_companions: Writes what belongs to the weights into a checkpoint; set before train().
    """

    def __init__(self, config: AnyConfig, **arguments: Any) -> None:
        self.config = config
        self.log_sinks = Log([])
        self.step_record: dict[str, float] = {}
        self.step_tokens = 0
        self.tokens = 0
        self.skipped, self.skipped_in_a_row = 0, 0
        self.why_stopped: str | None = None
        self.failed = False
        self.identity: dict[str, Any] = {}
        self.write_companions: Callable[[Path], None] = lambda folder: None
        # What asks a model's forward for the labels' log-probabilities without all logits: TRL's output layer, or ours.
        self.without_logits = {"use_cache": False, "fused_lm_head": True}
        super().__init__(**arguments)
        if "cross_entropy" in config.model.kernels:
            from megatron_bielik.posttrain.fused_head import put_head

            put_head(self.model)  # in place of the output layer that TRL has just put there
            self.without_logits["metrics"] = False
        self.remove_callback(PrinterCallback)
        self.add_callback(_RunCallback(self))

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        rows = len(train_dataset if train_dataset is not None else self.train_dataset)
        return RowStream(rows, self.args.max_steps * self.config.training.global_batch_size, self.args.seed)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Rate of each step by training.schedule, the same function as in pretraining."""
        options, shape = self.config.optimizer, self.config.schedule
        self.lr_scheduler = LambdaLR(
            optimizer or self.optimizer,
            lambda done: learning_rate(done + 1, options, shape, num_training_steps) / options.lr,
        )
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def _clip_grad_norm(self, model: Any) -> torch.Tensor:
        return self._skip_if_not_finite(super()._clip_grad_norm(model))

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        return self._skip_if_not_finite(norm) if grad_norm is None else norm

    def _skip_if_not_finite(self, norm: Any) -> Any:
        """Without gradients AdamW changes nothing, neither weights nor moments. The norm is the same on every rank."""
        if math.isfinite(float(norm)):
            self.skipped_in_a_row = 0
            return norm
        for parameter in self.model.parameters():
            parameter.grad = None
        self.skipped += 1
        self.skipped_in_a_row += 1
        return norm

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if self.is_world_process_zero():
            checkpoints.begin(folder)
        # Not TRL's, which writes a model card into each.
        Trainer._save_checkpoint(self, model, trial)
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            state = {
                "tokens": self.tokens,
                "skipped": self.skipped,
                "skipped_in_a_row": self.skipped_in_a_row,
                "identity": self.identity,
            }
            self.write_companions(folder)
            checkpoints.complete(folder, state, self.config.checkpoint.keep_last)
        self.accelerator.wait_for_everyone()

    def restore(self, checkpoint: Path) -> None:
        """Take back what _save_checkpoint kept beside the weights."""
        state = checkpoints.state_of(checkpoint)
        self.tokens, self.skipped = state["tokens"], state["skipped"]
        self.skipped_in_a_row = state["skipped_in_a_row"]

    @property
    def rows_per_step(self) -> float:
        """Rows of the training set that a step takes."""
        return self.config.training.global_batch_size

    def may_stop_here(self) -> bool:
        """Whether a checkpoint after this step resumes to the same losses."""
        return True

    def after_step(self, logs: dict[str, Any]) -> None:
        """Look at a step's figures, on every rank, before they are written: set step_record and step_tokens, or stop."""

    def stop(self, why: str, failed: bool = False) -> None:
        """End after this step, with a checkpoint. To be called on all ranks."""
        if self.why_stopped is None:
            self.why_stopped, self.failed = why, failed
            self.event("stop", why)

    def event(self, kind: str, message: str) -> None:
        """Log something that happened."""
        self.log_sinks.write({"type": "event", "step": self.state.global_step, "kind": kind, "message": message})

    def shares_of_rank(self, rows: int, size: int) -> Iterator[list[int]]:
        """Numbers of this rank's rows, up to `size` at a time, so that all ranks together see each row once.

        Every rank gets as many lists; one without a row of its own gets an empty one and takes part all the same, since a
        sharded model needs every rank.
        """
        rank, world = self.args.process_index, self.args.world_size
        for start in range(rank * size, -(-rows // (size * world)) * size * world, size * world):
            yield list(range(min(start, rows), min(start + size, rows)))

    def total_over_ranks(self, values: list[float]) -> list[float]:
        """Sum of each value over all ranks."""
        local = torch.tensor(values, dtype=torch.float64, device=self.args.device)
        if self.args.world_size > 1:
            torch.distributed.all_reduce(local)
        return [float(value) for value in local]


class _RunCallback(TrainerCallback):
    """Writes the log, asks for checkpoints and evaluations, and turns signals into a stop that all ranks make together."""

    def __init__(self, trainer: RunTrainer) -> None:
        self._trainer = trainer
        minutes = trainer.config.training.time_limit_minutes
        self._deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
        self._wanted = 0
        self._due = False
        self._previous: dict[int, Any] = {}
        self._last = time.perf_counter()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        for number, code in ((signal.SIGTERM, 2), (signal.SIGUSR1, 3)):

            def request(received: int, frame: FrameType | None, code: int = code) -> None:
                self._wanted = code

            self._previous[number] = signal.signal(number, request)
        self._last = time.perf_counter()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        trainer = self._trainer
        if time.monotonic() > self._deadline:
            self._wanted = max(self._wanted, 1)
        wanted = self._agreed()
        if wanted and trainer.may_stop_here():
            trainer.stop(STOP_REASONS[wanted])
        control.should_log = True
        interval, done = trainer.config.training.eval_interval, state.global_step >= state.max_steps
        if trainer.eval_dataset is not None:
            control.should_evaluate = done or bool(interval and state.global_step % interval == 0)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        trainer = self._trainer
        logs = dict(logs or {})
        state.log_history.clear()  # the run's log has it; every checkpoint would hold all of it
        if "loss" in logs:
            trainer.after_step(logs)
            self._step(state, logs)
            self._save_or_stop(state, control)
        elif evaluated := {
            name.removeprefix("eval_"): value for name, value in logs.items() if name.startswith("eval_")
        }:
            unwanted = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time", "num_tokens")
            figures = {name: value for name, value in evaluated.items() if name not in unwanted}
            trainer.log_sinks.write({"type": "eval", "step": state.global_step, "set": "valid", **figures})
            control.should_evaluate = False  # the end of an epoch would ask again
            self._last = time.perf_counter()  # the next step's speed is its own

    def _step(self, state: Any, logs: dict[str, Any]) -> None:
        """The record of a step."""
        trainer = self._trainer
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        trainer.tokens += trainer.step_tokens
        if trainer.skipped_in_a_row:
            trainer.event("skip", f"gradient norm {logs.get('grad_norm')}: step skipped ({trainer.skipped} in all)")
        if trainer.skipped_in_a_row >= trainer.config.training.max_skipped_steps:
            trainer.stop(
                f"{trainer.skipped_in_a_row} steps in a row had a gradient that was not finite "
                "(training.max_skipped_steps)",
                failed=True,
            )
        if state.global_step % trainer.config.logging.interval and state.global_step < state.max_steps:
            return
        rate = {"tokens_per_second_per_gpu": trainer.step_tokens / seconds / trainer.args.world_size}
        unwanted = ("loss", "learning_rate", "grad_norm", "epoch", "num_tokens", "step_time")
        trainer.log_sinks.write(
            {
                "type": "train",
                "step": state.global_step,
                "loss": logs["loss"],
                "lr": logs["learning_rate"],
                "grad_norm": logs.get("grad_norm"),
                "tokens": trainer.tokens,
                **(rate if trainer.step_tokens else {}),
                "step_seconds": seconds,
                "epoch": self._epoch(state.global_step),
                **{name: value for name, value in logs.items() if name not in unwanted},
                **trainer.step_record,
                "time": time.time(),
            }
        )

    def _epoch(self, step: int) -> float:
        return step * self._trainer.rows_per_step / len(self._trainer.train_dataset)

    def _save_or_stop(self, state: Any, control: Any) -> None:
        trainer = self._trainer
        interval = trainer.config.checkpoint.save_interval
        due = bool(interval and state.global_step % interval == 0) or state.global_step >= state.max_steps
        if trainer.why_stopped is not None:
            control.should_training_stop = True
            control.should_save = not trainer.skipped_in_a_row  # its last good checkpoint stays the newest
        else:
            # After a skipped step, or between two uses of the same answers, a checkpoint waits for a later step.
            self._due = due or self._due
            control.should_save = self._due and not trainer.skipped_in_a_row and trainer.may_stop_here()
            self._due = self._due and not control.should_save

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._trainer.event("checkpoint", f"step {state.global_step} saved")
        self._last = time.perf_counter()

    def _agreed(self) -> int:
        """The strongest request of any rank."""
        if self._trainer.args.world_size == 1:
            return self._wanted
        wanted = torch.tensor([self._wanted], device=self._trainer.args.device)
        torch.distributed.all_reduce(wanted, op=torch.distributed.ReduceOp.MAX)
        return int(wanted)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Progress bars, advice and model cards of the libraries are not the user's first screen; errors still come through."""
    import logging
    import warnings

    import datasets
    import transformers

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TQDM_DISABLE", "1")
    datasets.disable_progress_bars()
    for name in ("transformers", "trl", "accelerate", "datasets", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", UserWarning)
        yield
