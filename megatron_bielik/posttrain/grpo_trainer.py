"""The GRPO step on TRL's trainer: order of prompts, rewards that may fail, the guard on the divergence, held-out rewards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import Trainer
from trl import GRPOTrainer
from trl.models.utils import unwrap_model_for_generation

from megatron_bielik.posttrain.chat import ChatEncoder
from megatron_bielik.posttrain.config import GRPOConfig
from megatron_bielik.posttrain.grpo_data import prompt_ids
from megatron_bielik.posttrain.order import PromptStream
from megatron_bielik.posttrain.rewards.calls import RewardCalls
from megatron_bielik.posttrain.rewards.worker import Failure, RewardWorker
from megatron_bielik.posttrain.trainer import RunTrainer


class BielikGRPOTrainer(RunTrainer, GRPOTrainer):
    """TRL's GRPO trainer; group sampling, advantages, loss and clipping are TRL's.

    Args:
        config: Options.
        encoder: Prompts to tokens.
        worker: Runs the reward functions; the caller closes it.
        arguments: Of TRL's trainer.
    """

    config: GRPOConfig

    def __init__(self, config: GRPOConfig, encoder: ChatEncoder, worker: RewardWorker, **arguments: Any) -> None:
        self._encoder = encoder
        self._tokens_before = 0  # TRL counts from the start of the run
        options = config.rewards
        self.rewards = RewardCalls(
            options.functions, worker, self._text, self.total_over_ranks, options.max_failed_share
        )
        self.rewards.on_failure = self._reward_failed
        super().__init__(config=config, reward_funcs=self.rewards.functions(), **arguments)

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        rows, loss = len(self.train_dataset if dataset is None else dataset), self.config.loss
        return PromptStream(
            rows,
            sets=-(-self.args.max_steps // loss.updates_per_batch),
            prompts=self.config.training.global_batch_size // self.config.sampling.group_size,
            group_size=self.config.sampling.group_size,
            repeats=loss.updates_per_batch * self.args.steps_per_generation,
            seed=self.args.seed,
        )

    @property
    def rows_per_step(self) -> float:
        """Prompts that a step takes."""
        sampled = self.config.training.global_batch_size / self.config.sampling.group_size
        return sampled / self.config.loss.updates_per_batch

    def may_stop_here(self) -> bool:
        """Answers are not kept in checkpoints: one may be written only where the next step samples anew."""
        return self.state.global_step % self.config.loss.updates_per_batch == 0

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [prompt_ids(self._encoder, prompt) for prompt in prompts], None, {}

    def _text(self, ids: Any) -> str:
        """An answer as rewards read it: tags stay, what ends or fills it goes."""
        tokenizer = self._encoder.tokenizer
        ends = {*self.eos_token_ids, tokenizer.pad_token_id}
        kept = list(ids)
        while kept and kept[-1] in ends:
            kept.pop()
        text: str = tokenizer.decode(kept, skip_special_tokens=False)
        return text

    def _reward_failed(self, failure: Failure) -> None:
        self.event(
            "reward",
            f"{failure.function} failed, which counts as 0: {failure.reason} (first time; see reward_failures)",
        )

    def restore(self, checkpoint: Path) -> None:
        super().restore(checkpoint)
        self._tokens_before = self.tokens

    def after_step(self, logs: dict[str, Any]) -> None:
        """The guard: a policy that has gone far from the reference is stopped while its checkpoint can still be looked at."""
        self.step_tokens = int(logs.get("num_tokens", 0)) - self._tokens_before
        self._tokens_before += self.step_tokens
        self.step_record = {"reward_failures": sum(self.rewards.failed.values())}
        limit, divergence = self.config.loss.kl_limit, logs.get("kl")
        if limit is not None and divergence is not None and not divergence <= limit:
            self.stop(
                f"the policy is {divergence:.4g} nats per token from the reference, more than loss.kl_limit {limit:g}; "
                "lower optimizer.lr, raise loss.kl_coefficient, or look at what is rewarded",
                failed=True,
            )

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Mean rewards of the most likely answers to the valid set's prompts, and the length of those, tokens."""
        rows = self.eval_dataset
        size = self.args.per_device_train_batch_size * self.args.steps_per_generation
        names = self.rewards.names
        sums = [0.0] * (len(names) + 1)
        for numbers in self.shares_of_rank(len(rows), size):
            some = [rows[number] for number in numbers or [0]]
            answers = self._greedy([row["prompt"] for row in some])
            values = self.rewards.score(answers, [row["sample"] for row in some])
            if numbers:
                found = [*values.sum(1), sum(map(len, answers))]
                sums = [before + float(value) for before, value in zip(sums, found, strict=True)]
        *totals, tokens = (total / len(rows) for total in self.total_over_ranks(sums))
        weights = [spec.weight for spec in self.config.rewards.functions]
        figures = {f"eval_{name}": value for name, value in zip(names, totals, strict=True)}
        figures["eval_reward"] = sum(weight * value for weight, value in zip(weights, totals, strict=True))
        figures["eval_answer_tokens"] = tokens
        Trainer.log(self, figures)
        return figures

    def _greedy(self, prompts: list[str]) -> list[list[int]]:
        """The most likely answer to each prompt, with its end-of-turn token."""
        encoded = [prompt_ids(self._encoder, prompt) for prompt in prompts]
        pad, width = self._encoder.tokenizer.pad_token_id, max(map(len, encoded))
        ids = torch.tensor([[pad] * (width - len(one)) + one for one in encoded])
        mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in encoded])
        inputs = Trainer._prepare_inputs(self, {"input_ids": ids, "attention_mask": mask})
        training = self.model.training
        self.model.eval()
        with unwrap_model_for_generation(self.model_wrapped, self.accelerator) as model, torch.no_grad():
            made = model.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=self.config.sampling.max_completion_tokens,
                eos_token_id=self.eos_token_ids,
                pad_token_id=pad,
            )[:, width:]
        self.model.train(training)
        answers = []
        for row in made.tolist():
            end = next((place for place, token in enumerate(row) if token in self.eos_token_ids), len(row) - 1)
            answers.append(row[: end + 1])
        return answers
