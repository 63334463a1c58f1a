"""Every option of SFT, DPO-Positive and GRPO, once; the defaults are those of the Bielik v3 Small report."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from megatron_bielik.config import LoggingConfig, OptimizerConfig, ScheduleConfig
from megatron_bielik.posttrain.rewards.spec import RewardSpec


@dataclass(frozen=True)
class ModelConfig:
    """The model that is trained.

    Args:
        path: Hugging Face folder: config, safetensors, a fast tokenizer.
        attention: Attention of transformers; sdpa runs everywhere, flash_attention_2 needs the package flash_attn.
        kernels: This package's operations put into the model in place of transformers' own: norm, swiglu, rope,
            cross_entropy. Triton on a GPU, plain torch elsewhere.
        gradient_checkpointing: Keep layer inputs only and compute activations again in backward.
    """

    path: str = ""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    kernels: list[Literal["norm", "swiglu", "rope", "cross_entropy"]] = field(default_factory=list)
    gradient_checkpointing: bool = False


@dataclass(frozen=True)
class ParallelConfig:
    """How the batch is spread over the processes that torchrun or accelerate launch starts.

    Args:
        sharding: none keeps a whole model on every rank (DDP), fsdp shards weights, gradients and moments (FSDP2).
        timeout_minutes: A collective that waits longer than this fails.
    """

    sharding: Literal["none", "fsdp"] = "none"
    timeout_minutes: float = 30.0


@dataclass(frozen=True)
class TrainingConfig:
    """The run.

    Args:
        steps: Optimizer steps in all; none takes epochs.
        epochs: Passes over the training data, a fraction too; not used where steps is set.
        micro_batch_size: Rows of one forward pass on one rank (packed sequences, pairs, or completions).
        global_batch_size: Rows of one step over all ranks and micro-steps.
        precision: bf16 (weights kept in fp32, computed in bf16), or fp32.
        seed: Data order, and sampling in GRPO.
        eval_interval: Steps between evaluations; 0 evaluates at the end only, if there is something to evaluate on.
        eval_at_start: Evaluate before the first step too.
        max_skipped_steps: Consecutive steps with a NaN or infinite gradient before the run stops; each is skipped.
        time_limit_minutes: Save and leave when the run is this old; none never does.
    """

    steps: int | None = None
    epochs: float = 1.0
    micro_batch_size: int = 1
    global_batch_size: int = 8
    precision: Literal["bf16", "fp32"] = "bf16"
    seed: int = 42
    eval_interval: int = 0
    eval_at_start: bool = False
    max_skipped_steps: int = 10
    time_limit_minutes: float | None = None


@dataclass(frozen=True)
class CheckpointConfig:
    """Checkpoints and the result.

    Args:
        dir: Folder of the run: checkpoints, logs, prepared data, and the result in its folder final. A run started again
            with the same folder resumes; a run of another method, model, data or seed is refused there.
        save_interval: Steps between checkpoints; 0 saves at the end of the process only.
        keep_last: Newest checkpoints kept; 0 keeps all.
        allow_changed: What may differ from the run so far in the same folder: model, data, seed.
    """

    dir: str = "runs/posttrain"
    save_interval: int = 0
    keep_last: int = 2
    allow_changed: list[Literal["model", "data", "seed"]] = field(default_factory=list)


@dataclass(frozen=True)
class SFTData:
    """Conversations: rows {"messages": [{"role", "content"}, ...], "tools"?: [...], "weight"?: number}.

    Args:
        train: Files or glob patterns: .jsonl, .jsonl.gz, .jsonl.zst, .parquet.
        valid: Files to evaluate on.
        sequence_length: Tokens of a row; a longer conversation is dropped and counted.
        packing: Put several conversations into a row, by best fit, none cut; they do not see each other.
        sample_weights: Weigh each conversation's tokens in the loss by its field weight (1.0, 0.7 and 0.5 in Bielik's).
        chat_template: Jinja file with {% generation %} marks; none takes the tokenizer's own if it has them, else ChatML.
        max_bad_share: Share of conversations that may be unusable before the run refuses to start.
    """

    train: list[str] = field(default_factory=list)
    valid: list[str] = field(default_factory=list)
    sequence_length: int = 8192
    packing: bool = True
    sample_weights: bool = False
    chat_template: str | None = None
    max_bad_share: float = 0.1


@dataclass(frozen=True)
class AdaptiveLearningRate:
    """lr * sqrt(T / BS): T trained tokens of a step, BS = data.sequence_length * training.global_batch_size.

    Args:
        enabled: Scale the scheduled rate at each step; off trains at the scheduled rate.
    """

    enabled: bool = True


@dataclass(frozen=True)
class SFTConfig:
    """Supervised fine-tuning.

    Args:
        model: The model.
        data: Conversations.
        optimizer: AdamW.
        schedule: Learning rate over steps, before it is adapted.
        adaptive_lr: Rate by the step's trained tokens.
        training: The run.
        parallel: Processes.
        checkpoint: Checkpoints and the result.
        logging: Logs.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: SFTData = field(default_factory=SFTData)
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=7e-6, min_lr=6e-7, weight_decay=0.05))
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(warmup_steps=50))
    adaptive_lr: AdaptiveLearningRate = field(default_factory=AdaptiveLearningRate)
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(epochs=1.2, global_batch_size=128))
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    checkpoint: CheckpointConfig = field(default_factory=lambda: CheckpointConfig(dir="runs/sft"))
    logging: LoggingConfig = field(default_factory=LoggingConfig)


@dataclass(frozen=True)
class DPOData:
    """Preference pairs: rows {"prompt": [messages], "chosen": [messages], "rejected": [messages], "tools"?: [...]}.

    Args:
        train: Files or glob patterns, as tools/prepare_preferences.py writes them.
        valid: Files to evaluate on.
        sequence_length: Tokens of prompt and answer; a pair with a longer one is dropped and counted.
        chat_template: As in SFT.
        max_bad_share: Share of pairs that may be unusable before the run refuses to start.
    """

    train: list[str] = field(default_factory=list)
    valid: list[str] = field(default_factory=list)
    sequence_length: int = 4096
    chat_template: str | None = None
    max_bad_share: float = 0.1


@dataclass(frozen=True)
class PreferenceLoss:
    """DPO-Positive (Pal et al., 2024).

    Args:
        beta: Scale of the log-ratios.
        positive: Lambda, the penalty for a chosen answer that became less likely than under the reference; inside beta.
            0 is plain DPO.
        length_normalized: Mean log-probability of an answer's tokens in place of their sum.
    """

    beta: float = 0.1
    positive: float = 2.5
    length_normalized: bool = False


@dataclass(frozen=True)
class DPOConfig:
    """Preference optimisation.

    Args:
        model: The model; as it is at the beginning it is the reference.
        data: Pairs.
        loss: DPO-Positive.
        optimizer: AdamW.
        schedule: Learning rate over steps.
        training: The run.
        parallel: Processes.
        checkpoint: Checkpoints and the result.
        logging: Logs.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DPOData = field(default_factory=DPOData)
    loss: PreferenceLoss = field(default_factory=PreferenceLoss)
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=5e-7, min_lr=5e-7, weight_decay=0.0))
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(decay="constant", warmup_steps=50))
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(steps=1800, global_batch_size=64))
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    checkpoint: CheckpointConfig = field(default_factory=lambda: CheckpointConfig(dir="runs/dpo"))
    logging: LoggingConfig = field(default_factory=LoggingConfig)


@dataclass(frozen=True)
class GRPOData:
    """Prompts: rows {"messages": [system?, user], ...}; rewards read the other fields, such as "answer".

    Args:
        train: Files or glob patterns.
        valid: Files to evaluate on: mean rewards of the most likely answers.
        system: System message put before prompts that have none; none adds nothing.
        max_prompt_tokens: Longer prompts are dropped and counted.
        chat_template: Jinja file; none takes the tokenizer's own, else ChatML.
        max_bad_share: Share of prompts that may be unusable before the run refuses to start.
    """

    train: list[str] = field(default_factory=list)
    valid: list[str] = field(default_factory=list)
    system: str | None = None
    max_prompt_tokens: int = 1024
    chat_template: str | None = None
    max_bad_share: float = 0.1


@dataclass(frozen=True)
class Sampling:
    """Answers to learn from.

    Args:
        group_size: Answers to each prompt.
        temperature: Of sampling; log-probabilities are scaled by it too.
        top_p: Nucleus of sampling.
        max_completion_tokens: Longest answer, tokens.
        mask_truncated: Leave answers that reached the limit out of the loss.
        engine: transformers, or vllm (needs the [vllm] extra and a GPU; shares the training GPU's memory).
        vllm_memory: Share of the GPU's memory that vllm takes.
    """

    group_size: int = 8
    temperature: float = 1.0
    top_p: float = 1.0
    max_completion_tokens: int = 1024
    mask_truncated: bool = False
    engine: Literal["transformers", "vllm"] = "transformers"
    vllm_memory: float = 0.3


@dataclass(frozen=True)
class PolicyLoss:
    """GRPO (Shao et al., 2024) and its variants.

    Args:
        variant: grpo (mean of the answers' token means), dapo (mean over all tokens), dr_grpo (token sum over group size
            times max_completion_tokens, a constant; take scale none with it).
        scale: Advantages by the standard deviation of their group, or of the batch, or not (Dr. GRPO, Liu et al., 2025).
        clip_low: Ratios below 1 - clip_low are clipped.
        clip_high: Ratios above 1 + clip_high are clipped.
        kl_coefficient: Weight of the divergence from the reference (k3, Schulman's low-variance estimator).
        kl_limit: Mean k3 per token at which training stops, with a checkpoint; none never does.
        unbiased_kl: Multiply k3 by the probability ratio, which makes its gradient that of the divergence (DeepSeek-V3.2);
            TRL does so by default, the published recipe's formula does not.
        updates_per_batch: Optimizer steps on each set of sampled answers.
    """

    variant: Literal["grpo", "dapo", "dr_grpo"] = "grpo"
    scale: Literal["group", "batch", "none"] = "group"
    clip_low: float = 0.2
    clip_high: float = 0.2
    kl_coefficient: float = 0.001
    kl_limit: float | None = 0.5
    unbiased_kl: bool = False
    updates_per_batch: int = 1


@dataclass(frozen=True)
class RewardsConfig:
    """What an answer is worth: the weighted sum of the functions.

    Args:
        functions: Names with weights: math_answer, choice, tool_call, format, length, or package.module:function.
        timeout_seconds: A call that takes longer is given up.
        max_failed_share: Share of a step's calls of one function that may fail (raise, hang, return no finite number)
            before the run stops; a failed call counts as 0.
    """

    functions: list[RewardSpec] = field(default_factory=list)
    timeout_seconds: float = 10.0
    max_failed_share: float = 0.5


@dataclass(frozen=True)
class GRPOConfig:
    """Reinforcement learning with verifiable rewards.

    Args:
        model: The model; as it is at the beginning it is the reference.
        data: Prompts.
        rewards: What an answer is worth.
        sampling: Answers.
        loss: GRPO.
        optimizer: AdamW.
        schedule: Learning rate over steps.
        training: The run; batch sizes count answers.
        parallel: Processes.
        checkpoint: Checkpoints and the result.
        logging: Logs.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: GRPOData = field(default_factory=GRPOData)
    rewards: RewardsConfig = field(default_factory=RewardsConfig)
    sampling: Sampling = field(default_factory=Sampling)
    loss: PolicyLoss = field(default_factory=PolicyLoss)
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=1e-6, min_lr=1e-6, weight_decay=0.0))
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(decay="constant"))
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(global_batch_size=128))
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    checkpoint: CheckpointConfig = field(default_factory=lambda: CheckpointConfig(dir="runs/grpo"))
    logging: LoggingConfig = field(default_factory=LoggingConfig)
