"""The DPO-Positive step on TRL's trainer, with the reference's log-probabilities computed once and kept beside the data."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import Trainer
from trl import DPOTrainer

from megatron_bielik.corpus.records import write_whole
from megatron_bielik.posttrain.config import DPOConfig
from megatron_bielik.posttrain.dpo_loss import Pairs, pair_metrics, preference_losses
from megatron_bielik.posttrain.sft_data import IGNORED
from megatron_bielik.posttrain.trainer import RunTrainer


class BielikDPOTrainer(RunTrainer, DPOTrainer):
    """TRL's DPO trainer with this package's loss, metrics and run.

    The loss of a step is the mean over the pairs of all ranks and micro-steps.

    Args:
        config: Options.
        prepared: Paths of the Arrow files of the sets, by name (train, eval): what the cache of the reference belongs to.
        arguments: Of TRL's trainer.
    """

    config: DPOConfig
    loss_is_scaled_for_ga = True

    def __init__(self, config: DPOConfig, prepared: dict[str, Path], **arguments: Any) -> None:
        self._prepared = prepared
        self._sums: dict[str, list[torch.Tensor]] = {}
        super().__init__(config=config, **arguments)

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset  # it is encoded already

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """The set with reference log-probabilities, from the cache or computed by all ranks together."""
        described = f"{self._prepared[name].name} {self._precompute_model_hash} {self.config.training.precision}"
        key = hashlib.sha256(described.encode()).hexdigest()[:16]
        path = self._prepared[name].with_name(f"reference-{name}-{key}.npy")
        if not path.is_file():
            sums = self._reference_sums(dataset, batch_size)
            if self.is_world_process_zero():
                content = io.BytesIO()
                np.save(content, sums)
                write_whole(path, content.getvalue())
        self.accelerator.wait_for_everyone()
        sums = np.load(path, allow_pickle=False)
        if self.config.loss.length_normalized:
            lengths = [np.fromiter((row.sum() for row in dataset[f"{side}_trained"]), np.float64) for side in _SIDES]
            sums = sums / np.stack(lengths, 1)
        for number, side in enumerate(_SIDES):
            dataset = dataset.add_column(f"reference_{side}", sums[:, number].astype(np.float32))
        return dataset.with_format("numpy")

    def _reference_sums(self, dataset: Dataset, size: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Summed log-probabilities of both answers under the model as it is, float64 [pairs, 2]."""
        model = self.ref_model or self.model
        found = torch.zeros((len(dataset), 2), dtype=torch.float64, device=self.args.device)
        model.eval()
        for numbers in self.shares_of_rank(len(dataset), size):
            batch = self._prepare_inputs(self.data_collator([dataset[number] for number in numbers or [0]]))
            with torch.no_grad(), self.accelerator.autocast():
                answers = self._log_probs(model, batch).double().view(2, -1).T
            if numbers:
                found[numbers] = answers
        if self.args.world_size > 1:
            torch.distributed.all_reduce(found)
        return found.cpu().numpy()

    def _log_probs(self, model: Any, batch: dict[str, Any]) -> torch.Tensor:
        """Summed log-probability of each answer, fp32 [2 * pairs]."""
        passed = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
        summed: torch.Tensor = model(**passed, **self.without_logits).log_probs.float().sum(1)
        return summed

    def _pairs(self, model: Any, batch: dict[str, Any]) -> Pairs:
        summed = self._log_probs(model, batch)
        if self.config.loss.length_normalized:
            summed = summed / (batch["labels"] != IGNORED).sum(1)
        return Pairs(*summed.chunk(2), *batch["reference"].chunk(2))

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor:
        """Pairs of the step over all ranks."""
        pairs = sum(len(batch["input_ids"]) // 2 for batch in batch_samples)
        tokens = sum(int(batch["attention_mask"].sum()) for batch in batch_samples)
        pairs, tokens = map(int, self.total_over_ranks([pairs, tokens]))
        self.step_tokens = tokens
        return torch.tensor(pairs, device=device)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Sum over the micro-batch's pairs by the step's pairs, times the ranks that DDP will average over."""
        options = self.config.loss
        pairs = self._pairs(model, inputs)
        with torch.no_grad():
            for name, values in pair_metrics(pairs, options.beta).items():
                self._sums.setdefault(name, []).append(values.detach().sum())
        losses = preference_losses(pairs, options.beta, options.positive)
        return losses.sum() * self.accelerator.num_processes / num_items_in_batch

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Loss and metrics over the valid set, each pair counted once."""
        rows, options = self.eval_dataset, self.config.loss
        sums: dict[str, float] = {}
        self.model.eval()
        for numbers in self.shares_of_rank(len(rows), self.args.per_device_eval_batch_size):
            batch = self._prepare_inputs(self.data_collator([rows[number] for number in numbers or [0]]))
            with torch.no_grad(), self.compute_loss_context_manager():
                pairs = self._pairs(self.model_wrapped, batch)
            values = {"loss": preference_losses(pairs, options.beta, options.positive)} | pair_metrics(
                pairs, options.beta
            )
            for name, of_pairs in values.items():
                sums[name] = sums.get(name, 0.0) + (float(of_pairs.sum(dtype=torch.float64)) if numbers else 0.0)
        self.model.train()
        totals = self.total_over_ranks(list(sums.values()))
        figures = {f"eval_{name}": total / len(rows) for name, total in zip(sums, totals, strict=True)}
        RunTrainer.log(self, figures)
        return figures

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """With the step's metrics, means over the pairs of all ranks; without TRL's own averages."""
        if "loss" in logs and self._sums:
            names = list(self._sums)
            sums = [float(torch.stack(self._sums[name]).sum(dtype=torch.float64)) for name in names]
            pairs = self.config.training.global_batch_size
            totals = self.total_over_ranks(sums)
            self.step_record = {name: total / pairs for name, total in zip(names, totals, strict=True)}
        self._sums = {}
        Trainer.log(self, logs, start_time)


_SIDES = ("chosen", "rejected")
