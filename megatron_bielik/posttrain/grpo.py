"""Reinforcement learning with verifiable rewards: python -m megatron_bielik.posttrain.grpo --config run.yaml."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from megatron_bielik.posttrain.config import GRPOConfig
from megatron_bielik.posttrain.job import prepared, start

if TYPE_CHECKING:
    from datasets import Dataset

    from megatron_bielik.posttrain.chat import ChatEncoder

EXAMPLES = """examples:
  python -m megatron_bielik.posttrain.grpo --config examples/posttrain/grpo.yaml
  python -m megatron_bielik.posttrain.grpo --config run.yaml --loss.variant dr_grpo --loss.scale none
  torchrun --nproc-per-node 8 -m megatron_bielik.posttrain.grpo --config examples/bielik-4.5b/grpo.yaml
Problems to practise on are made by tools/generate_problems.py. A run started again with the same checkpoint.dir goes on
where its newest checkpoint ends."""


def main(arguments: list[str] | None = None) -> int:
    """Run the job. Returns the exit code, as job.start does."""
    return start("grpo", "Train a model on rewarded answers by GRPO.", EXAMPLES, GRPOConfig, train, arguments)


def train(config: GRPOConfig, accumulation: int, dry_run: bool = False) -> int:
    """Prepare the prompts, report, train. Returns the exit code."""
    from trl import GRPOConfig as Arguments

    from megatron_bielik.posttrain.grpo_trainer import BielikGRPOTrainer
    from megatron_bielik.posttrain.order import steps_of
    from megatron_bielik.posttrain.rewards.worker import RewardWorker
    from megatron_bielik.posttrain.run import claim_folder, load_encoder, load_model, make_arguments, run
    from megatron_bielik.posttrain.trainer import quiet_libraries

    with quiet_libraries():
        encoder = load_encoder(config)
        arguments = make_arguments(config, accumulation, Arguments, **_arguments(config, accumulation))
        claimed = claim_folder(config, encoder, dry_run)
        with arguments.main_process_first(local=False):
            speak = arguments.process_index == 0
            names = ["train", "valid"] if config.data.valid else ["train"]
            sets = {name: _prompts(config, encoder, name, speak) for name in names}
        if dry_run:
            return 0
        training, prompts = config.training, config.training.global_batch_size // config.sampling.group_size
        updates = config.loss.updates_per_batch
        arguments.max_steps = training.steps or updates * steps_of(len(sets["train"]), prompts, training.epochs)
        with RewardWorker(config.rewards.functions, config.rewards.timeout_seconds) as worker:
            trainer = BielikGRPOTrainer(
                config,
                encoder,
                worker,
                model=load_model(config),
                args=arguments,
                train_dataset=sets["train"],
                eval_dataset=sets.get("valid"),
                processing_class=encoder.tokenizer,
            )
            return run(trainer, encoder, claimed)


def _arguments(config: GRPOConfig, accumulation: int) -> dict[str, Any]:
    """What TRL calls the options of sampling and loss."""
    sampling, loss = config.sampling, config.loss
    vllm = {"use_vllm": True, "vllm_mode": "colocate", "vllm_gpu_memory_utilization": sampling.vllm_memory}
    return {
        "num_generations": sampling.group_size,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": 0,
        "max_completion_length": sampling.max_completion_tokens,
        "mask_truncated_completions": sampling.mask_truncated,
        "steps_per_generation": accumulation,
        "num_iterations": loss.updates_per_batch,
        "loss_type": loss.variant,
        "scale_rewards": loss.scale,
        "epsilon": loss.clip_low,
        "epsilon_high": loss.clip_high,
        "beta": loss.kl_coefficient,
        "use_bias_correction_kl": loss.unbiased_kl,
        "disable_dropout": True,
        "reward_weights": [function.weight for function in config.rewards.functions],
        **(vllm if sampling.engine == "vllm" else {}),
    }


def _prompts(config: GRPOConfig, encoder: ChatEncoder, name: str, speak: bool) -> Dataset:
    """The prepared set; the first process prints its report."""
    from datasets import Dataset

    from megatron_bielik.posttrain.data import print_report
    from megatron_bielik.posttrain.grpo_data import encode_prompts

    found = prepared(config, encoder, name, "prompts", encode_prompts)
    if speak:
        print_report(name, "prompts", found.report, [])
    return Dataset.from_file(str(found.path))


if __name__ == "__main__":
    sys.exit(main())
