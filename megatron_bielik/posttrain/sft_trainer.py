"""The SFT step: a weighted loss over all ranks and micro-steps, and a learning rate that follows the trained tokens."""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import Trainer, TrainerCallback
from trl import SFTTrainer

from megatron_bielik.posttrain.config import SFTConfig
from megatron_bielik.posttrain.sft_data import IGNORED
from megatron_bielik.posttrain.trainer import RunTrainer


def adapted(rate: float, trained_tokens: float, full_batch_tokens: float) -> float:
    """lr * sqrt(T / BS): the adaptive learning rate of Bielik (Ociepa et al., 2024, section 4).

    Args:
        rate: Scheduled rate.
        trained_tokens: T, tokens with a loss in the step, over all ranks and micro-steps.
        full_batch_tokens: BS, sequence length times global batch size.
    """
    return rate * math.sqrt(trained_tokens / full_batch_tokens)


class BielikSFTTrainer(RunTrainer, SFTTrainer):
    """TRL's SFT trainer with this package's loss, learning rate and run.

    The loss of a step is sum(w * nll) / sum(w) over the trained tokens of all ranks and micro-steps, w being 1 or the
    conversation's weight.
    """

    config: SFTConfig
    loss_is_scaled_for_ga = True  # type: ignore[assignment]  # transformers declares bool | None

    def __init__(self, config: SFTConfig, **arguments: Any) -> None:
        super().__init__(config=config, **arguments)
        self.label_tokens = 0
        if config.adaptive_lr.enabled:
            self.add_callback(_AdaptiveRate(self))

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["conversations"]

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor:
        """Weight of the step's trained tokens over all ranks; their number T is kept for the learning rate."""
        here = [
            sum(float(batch["weights"].sum(dtype=torch.float64)) for batch in batch_samples),
            sum(int((batch["labels"] != IGNORED).sum()) for batch in batch_samples),
            sum(batch["input_ids"].numel() for batch in batch_samples),
        ]
        weight, trained, tokens = self.total_over_ranks(here)
        self.label_tokens, self.step_tokens = int(trained), int(tokens)
        self.step_record = {"label_tokens": self.label_tokens}
        return torch.tensor(weight, device=device)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """sum(w * nll) of this micro-batch over the step's weight, times the ranks that DDP will average over."""
        loss = (self.token_losses(model, inputs) * inputs["weights"][:, 1:]).sum()
        world = self.accelerator.num_processes
        return loss * world / torch.as_tensor(num_items_in_batch).clamp(min=1e-12)

    def token_losses(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """Negative log-probabilities of the labels, fp32 [rows, tokens - 1], 0 where nothing is trained."""
        passed = {name: value for name, value in inputs.items() if name != "weights"}
        log_probs: torch.Tensor = model(**passed, **self.without_logits).log_probs
        return -log_probs.float()

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Mean loss of the valid set's trained tokens, each counted once, and its perplexity."""
        rows, sums = self.eval_dataset, [0.0, 0.0]
        self.model.eval()
        for numbers in self.shares_of_rank(len(rows), self.args.per_device_eval_batch_size):
            batch = self._prepare_inputs(self.data_collator([rows[number] for number in numbers or [0]]))
            weights = batch["weights"][:, 1:] if numbers else torch.zeros_like(batch["weights"][:, 1:])
            with torch.no_grad(), self.compute_loss_context_manager():
                losses = self.token_losses(self.model_wrapped, batch)
            sums[0] += float((losses * weights).sum(dtype=torch.float64))
            sums[1] += float(weights.sum(dtype=torch.float64))
        self.model.train()
        total, weight = self.total_over_ranks(sums)
        figures = {"eval_loss": total / weight, "eval_perplexity": math.exp(min(total / weight, 700))}
        RunTrainer.log(self, figures)
        return figures

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Without TRL's averages, which this loss does not fill."""
        Trainer.log(self, logs, start_time)


class _AdaptiveRate(TrainerCallback):
    """Sets the adapted rate for the one optimizer step, and the scheduled one back after it."""

    def __init__(self, trainer: BielikSFTTrainer) -> None:
        self._trainer = trainer
        self._scheduled: list[float] = []
        options = trainer.config
        self._full = options.data.sequence_length * options.training.global_batch_size

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        self._scheduled = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] = adapted(group["lr"], self._trainer.label_tokens, self._full)
        self._trainer.step_record |= {
            "lr_scheduled": self._scheduled[0],
            "lr": optimizer.param_groups[0]["lr"],
        }

    def on_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        for group, rate in zip(optimizer.param_groups, self._scheduled, strict=True):
            group["lr"] = rate
