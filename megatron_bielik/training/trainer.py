"""The run: builds everything once, then loops over steps; what is not the step itself is a callback."""

from __future__ import annotations

import gc
import math
import time
from pathlib import Path
from typing import Any

from megatron_bielik import checkpoint_files as files
from megatron_bielik.checkpoint_files import CheckpointError
from megatron_bielik.config import Config
from megatron_bielik.model.gpt import build_model
from megatron_bielik.model.initialization import initialize
from megatron_bielik.parallel.runtime import Runtime
from megatron_bielik.settings import as_yaml
from megatron_bielik.training.benchmarks import Benchmarks
from megatron_bielik.training.callbacks import (
    Callback,
    Checkpoints,
    Evaluation,
    GarbageCollection,
    LossSpikes,
    Metrics,
    SkippedSteps,
    StopRequests,
)
from megatron_bielik.training.checkpoint import CheckpointStore, load
from megatron_bielik.training.datasets import open_data
from megatron_bielik.training.flops import dense_bf16_peak, flops_per_token
from megatron_bielik.training.freezing import apply_patterns, trainable_patterns
from megatron_bielik.training.log import Log
from megatron_bielik.training.optimizer import (
    Update,
    build_optimizer,
    gather_weights,
    set_learning_rate,
    wrap_for_training,
)
from megatron_bielik.training.schedule import learning_rate
from megatron_bielik.training.step import StepResult, evaluate, train_step
from megatron_bielik.training.watchdog import Watchdog


class Trainer:
    """One pretraining run from its configuration to its last step.

    Attributes:
        step: Steps done.
        resumed_step: Step this process started from.
        lr: Learning rate of the last step.
        step_seconds: Duration of the last step, reading its data included.
        samples: First and one-past-last sample of each data set in the last step.
        stopping: Why the loop ends early, or none.
        failed: Whether it ends because of a failure.
    """

    def __init__(self, config: Config, runtime: Runtime, watchdog: Watchdog) -> None:
        self.config, self.runtime, self._watchdog = config, runtime, watchdog
        training, shape = config.training, config.model.shape()
        self.folder = Path(config.checkpoint.dir)
        self.step = self.resumed_step = 0
        self.lr = self.step_seconds = 0.0
        self.samples: dict[str, tuple[int, int]] = {}
        self.stopping: str | None = None
        self.failed = False
        self.log = Log([])
        self.tokens_per_step = training.global_batch_size * config.data.sequence_length
        self.flops_per_token = {c: flops_per_token(shape, config.data.sequence_length, c) for c in ("causal", "full")}
        peak = training.peak_tflops
        self.peak_flops = peak * 1e12 if peak is not None else dense_bf16_peak(runtime.device_name)
        options = config.checkpoint
        self.store = CheckpointStore(
            self.folder / files.CHECKPOINTS, options.keep_last, options.keep_every, options.async_save
        )
        self._stop_requests = StopRequests(training.time_limit_minutes)
        self.callbacks: list[Callback] = [
            SkippedSteps(training.max_skipped_steps),
            Metrics(config.logging.interval),
            LossSpikes(training.spike_threshold),
            Evaluation(training.eval_interval, training.eval_at_start),
            self._stop_requests,
            Benchmarks(config.benchmarks, self.folder, runtime.rank),
            Checkpoints(options.save_interval),
            GarbageCollection(training.gc_interval),
        ]

    def prepare(self) -> None:
        """Build the model, take weights from a checkpoint if there is one, and open the data. Raises on bad input."""
        self._watchdog.progress("building the model")
        checkpoint = self.store.latest()
        common: dict[str, Any] = {}
        if checkpoint is not None:
            self.step = self.resumed_step = files.read_description(checkpoint)[1]
        self._build()
        if checkpoint is not None:
            self._watchdog.progress("loading the checkpoint")
            common = self._load(checkpoint)
            self.store.set_aside_after(self.step)
        elif self.config.checkpoint.init_from is not None:
            self._watchdog.progress("loading initial weights")
            source = files.find_checkpoint(Path(self.config.checkpoint.init_from))
            load(source, self.config.model.shape(), self._chunks, None, self.config.checkpoint.verify)
            self._optimizer.reload_model_params()
        self._watchdog.progress("opening the data")
        self._loader, self._evaluation = open_data(self.config, self.runtime, self.step, common.get("mixture"))

    def run(self) -> None:
        """Train until the last step, a stop request or a failure."""
        self.event("start", self._describe())
        for notice in self.store.notices:
            self.event("resume", notice)
        for callback in self.callbacks:
            callback.on_start(self)
        try:
            while self.step < self.config.training.steps and self.stopping is None:
                result = self._next_step()
                for callback in self.callbacks:
                    self._watchdog.progress(f"in {callback.name} after step {self.step}")
                    callback.on_step(self, result)
            for callback in reversed(self.callbacks):  # checkpoints before the signal handlers are taken off
                callback.on_end(self)
        finally:
            self._loader.close()
        self.store.close()

    def _next_step(self) -> StepResult:
        started = time.perf_counter()
        self._watchdog.progress(f"reading the data of step {self.step + 1}")
        batches = self._loader.next_step()
        self.samples = self._loader.drawn
        self._watchdog.progress(f"in step {self.step + 1}")
        self.step += 1
        options = self.config
        self.lr = learning_rate(self.step, options.optimizer, options.schedule, options.training.steps)
        set_learning_rate(self._optimizer, self.lr)
        result = train_step(
            self._wrapped, self._optimizer, self._update, batches, options, self.runtime, self._stop_requests.wanted
        )
        self.step_seconds = time.perf_counter() - started
        return result

    def stop(self, reason: str, failed: bool = False) -> None:
        """Leave the loop after this step. To be called on every rank."""
        self.stopping, self.failed = reason, failed or self.failed
        self.event("stop", f"stopping after step {self.step}: {reason}")

    def alive(self, what: str) -> None:
        """Tell the watchdog that this rank is at work."""
        self._watchdog.progress(what)

    def event(self, kind: str, message: str) -> None:
        """Log something that happened at this step."""
        self.log.write({"type": "event", "step": self.step, "kind": kind, "message": message, "time": time.time()})

    def evaluate(self) -> None:
        """Evaluate every set on its first samples, the same ones each time, and log each loss."""
        for name, batches in self._evaluation.items():
            self._watchdog.progress(f"evaluating {name} after step {self.step}")
            loss, _ = evaluate(self._wrapped, batches, self.config, self.runtime)
            perplexity = math.exp(min(loss, 700.0))
            record = {"type": "eval", "step": self.step, "set": name, "loss": loss, "perplexity": perplexity}
            self.log.write({**record, "time": time.time()})

    def save(self) -> None:
        """Save this step."""
        gather_weights(self._wrapped)
        common = {
            "step": self.step,
            "mixture": self._loader.state,
            "seed": self.config.training.seed,
            "sequence_length": self.config.data.sequence_length,
            "split": self.config.data.split,
            "callbacks": {callback.name: callback.state() for callback in self.callbacks},
        }
        self.store.save(
            self.step, self.config.model.shape(), self._chunks, self._optimizer, common, self._write_companions
        )

    def rebuild_from(self, checkpoint: Path | None) -> None:
        """Build model and optimizer anew for the parameters trained from this step on, and fill them from a checkpoint."""
        assert checkpoint is not None, "a checkpoint was saved at this step"
        # Modules and hooks refer to each other: without a collection both models would be held at once.
        del self._chunks, self._wrapped, self._optimizer, self._update
        gc.collect()
        self._build()
        self._load(checkpoint)

    def _describe(self) -> str:
        """The run in one line."""
        parallel, training = self.config.parallel, self.config.training
        data_parallel = self.runtime.world_size // parallel.model_parallel_size
        return (
            f"{self.config.model.shape().num_parameters():,} parameters, {training.precision}, on {self.runtime.device_name}; "
            f"tensor {parallel.tensor_parallel_size} x pipeline {parallel.pipeline_parallel_size} x "
            f"context {parallel.context_parallel_size} x data {data_parallel}; "
            f"steps {self.step + 1} to {training.steps} of {self.tokens_per_step:,} tokens"
        )

    def _build(self) -> None:
        self._chunks = build_model(self.config)
        initialize(self._chunks, self.config)
        apply_patterns(self._chunks, trainable_patterns(self.config.training, self.step))
        self._wrapped = wrap_for_training(self._chunks, self.config.parallel)
        self._optimizer = build_optimizer(self._wrapped, self.config, self.runtime)
        self._update = Update(self._optimizer, self._wrapped)

    def _load(self, checkpoint: Path) -> dict[str, Any]:
        shape, verify = self.config.model.shape(), self.config.checkpoint.verify
        common = load(checkpoint, shape, self._chunks, self._optimizer, verify)
        data = self.config.data
        options = {"training.seed": self.config.training.seed, "data.sequence_length": data.sequence_length}
        for option, here in {**options, "data.split": data.split}.items():
            name = option.split(".")[1]
            if common[name] != here:
                raise CheckpointError(
                    f"{option} is {here} but {checkpoint} was trained with {common[name]}, which fixes the order of samples; "
                    "keep it, or start another run with checkpoint.init_from"
                )
        for callback in self.callbacks:
            if state := common["callbacks"].get(callback.name):
                callback.restore(state)
        return common

    def _write_companions(self, folder: Path) -> None:
        """What travels with the weights: the options, and the tokenizer (the one the weights came with, if none is given)."""
        (folder / "run.yaml").write_text(as_yaml(self.config))
        tokenizer = self.config.data.tokenizer
        if tokenizer is None and self.config.checkpoint.init_from is not None:
            tokenizer = str(files.find_checkpoint(Path(self.config.checkpoint.init_from)) / files.TOKENIZER)
        if tokenizer is not None and Path(tokenizer).is_dir():
            files.copy_companions(Path(tokenizer), folder / files.TOKENIZER)
