"""Every option of the pretraining job, once: a dataclass per concern, the default, the unit, one line of why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from megatron_bielik.presets import PRESETS, ModelShape


@dataclass(frozen=True)
class ModelConfig:
    """The model. A preset gives the shape; any shape option that is set replaces the preset's value.

    Args:
        preset: Name of a published shape (see presets.py).
        architecture: qwen2 (biases on q, k, v) or bielik (biases on every linear of a layer).
        num_layers: Transformer layers.
        hidden_size: Width of the residual stream.
        ffn_hidden_size: Width of the gated MLP.
        num_attention_heads: Query heads.
        num_query_groups: Key/value heads (grouped-query attention).
        head_dim: Width of one head.
        vocab_size: Tokens known to the tokenizer, without padding.
        max_position_embeddings: Longest sequence, tokens; written to the export.
        tie_embeddings: Output matrix shares the input embedding.
        rope_theta: Base of the rotary frequencies.
        norm_epsilon: Added to the mean square in RMSNorm.
        implementation: local (this package's operations) or transformer_engine (needs the [te] extra and a GPU).
        init_std: Standard deviation of the normal initialisation; output projections use init_std / sqrt(2 * layers).
        make_vocab_size_divisible_by: The embedding is padded to a multiple of this times tensor_parallel_size.
        attention: Kernel on a GPU: auto and flash take torch's variable-length flash attention, flash3 needs the package
            flash_attn_3, cudnn serves rows of equally long documents; torch, and every choice on a CPU, is plain torch.
        fp8: Linears of all layers but the first and the last in 8 bits, scaled per tensor or per row; weights stay bf16.
        compile: torch.compile for what has no kernel here and gains by it, the rounding to fp8; on a GPU only.
    """

    preset: str = "tiny"
    architecture: Literal["qwen2", "bielik"] | None = None
    num_layers: int | None = None
    hidden_size: int | None = None
    ffn_hidden_size: int | None = None
    num_attention_heads: int | None = None
    num_query_groups: int | None = None
    head_dim: int | None = None
    vocab_size: int | None = None
    max_position_embeddings: int | None = None
    tie_embeddings: bool | None = None
    rope_theta: float | None = None
    norm_epsilon: float | None = None
    implementation: Literal["local", "transformer_engine"] = "local"
    init_std: float = 0.02
    make_vocab_size_divisible_by: int = 128
    attention: Literal["auto", "flash", "flash3", "cudnn", "torch"] = "auto"
    fp8: Literal["none", "tensorwise", "rowwise"] = "none"
    compile: bool = True

    def shape(self) -> ModelShape:
        """The preset's shape with this config's own values put in. Raises KeyError for an unknown preset."""
        base = PRESETS[self.preset]
        own = {name: getattr(self, name) for name in base.__dataclass_fields__}
        return ModelShape(**{name: getattr(base, name) if value is None else value for name, value in own.items()})

    def padded_vocab_size(self, tensor_parallel_size: int) -> int:
        """Rows of the embedding after padding; padded rows never receive probability or gradient."""
        unit = self.make_vocab_size_divisible_by * tensor_parallel_size
        return -(-self.shape().vocab_size // unit) * unit


@dataclass(frozen=True)
class ParallelConfig:
    """How the model and the batch are spread over processes; data parallelism takes what is left of the world.

    Optimizer states are always split over the data-parallel (and context-parallel) ranks (megatron-core's distributed
    optimizer, ZeRO-1).

    Args:
        tensor_parallel_size: Ranks that share every matrix; keep inside one NVLink node.
        context_parallel_size: Ranks that share every row of tokens, each an early and a late piece; for long sequences.
        pipeline_parallel_size: Ranks that share the layers, in order.
        virtual_pipeline_parallel_size: Model chunks per pipeline rank (interleaved schedule); none for the plain 1F1B.
        sequence_parallel: Split norms and residuals along the sequence inside the tensor-parallel group.
        recompute: Activations kept: none recomputed, selective (norm and SwiGLU outputs are, cheaply), full (only layer
            inputs kept).
        overlap_grad_reduce: Sum gradients over data-parallel ranks while backward still runs.
        overlap_param_gather: Collect updated weights while the next forward already runs.
        backend: Communication: auto takes nccl on a GPU and gloo elsewhere.
        timeout_minutes: A collective that waits longer than this fails.
    """

    tensor_parallel_size: int = 1
    context_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    virtual_pipeline_parallel_size: int | None = None
    sequence_parallel: bool = False
    recompute: Literal["none", "selective", "full"] = "none"
    overlap_grad_reduce: bool = True
    overlap_param_gather: bool = True
    backend: Literal["auto", "nccl", "gloo"] = "auto"
    timeout_minutes: float = 10.0

    @property
    def model_parallel_size(self) -> int:
        """Ranks that work on one micro-batch: tensor, pipeline and context."""
        return self.tensor_parallel_size * self.pipeline_parallel_size * self.context_parallel_size


@dataclass(frozen=True)
class DatasetSpec:
    """One data set of a mixture.

    Args:
        prefix: Path of the shard without .bin/.idx.
        weight: Share of the mixture; weights are normalised to sum to one.
    """

    prefix: str
    weight: float = 1.0


@dataclass(frozen=True)
class DataConfig:
    """Tokens.

    Args:
        train: The training mixture.
        valid: Further evaluation sets by name: one shard prefix each.
        split: Shares of the training shards' documents for train, valid and test; valid and test are evaluated too.
        tokenizer: Hugging Face folder; carried along into checkpoints and exports.
        sequence_length: Tokens of one sample.
        respect_document_boundaries: Positions restart and attention stops at each document's end.
        index_cache: Folder for the sample indices; none puts it beside the checkpoints.
    """

    train: list[DatasetSpec] = field(default_factory=list)
    valid: dict[str, str] = field(default_factory=dict)
    split: str = "100,0,0"
    tokenizer: str | None = None
    sequence_length: int = 512
    respect_document_boundaries: bool = True
    index_cache: str | None = None


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW.

    Args:
        lr: Peak learning rate.
        min_lr: Learning rate at the end of the decay.
        weight_decay: Decoupled decay of matrices; norms and biases have none.
        beta1: Decay of the first moment.
        beta2: Decay of the second moment.
        epsilon: Added to the square root of the second moment.
        clip_grad: Largest global gradient norm; 0 turns clipping off.
    """

    lr: float = 3e-4
    min_lr: float = 3e-5
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    clip_grad: float = 1.0


@dataclass(frozen=True)
class ScheduleConfig:
    """Learning rate over steps.

    Args:
        decay: Shape after the warm-up; wsd holds the peak, then falls over the last cooldown_steps.
        warmup_steps: Steps from 0 to the peak, linear.
        decay_steps: Step at which min_lr is reached; none takes training.steps.
        cooldown_steps: Length of wsd's final fall (1 - sqrt).
    """

    decay: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    warmup_steps: int = 0
    decay_steps: int | None = None
    cooldown_steps: int = 0


@dataclass(frozen=True)
class TrainingConfig:
    """The run.

    Args:
        steps: Optimizer steps in all.
        micro_batch_size: Samples of one forward pass on one data-parallel rank.
        global_batch_size: Samples of one step over all ranks and micro-steps.
        precision: bf16 (fp32 master weights and gradient sums) or fp32.
        z_loss: Weight of the squared log-sum-exp of the logits in the loss (PaLM, section 5); 0 leaves it out.
        loss_chunk_tokens: Tokens whose logits exist at one time; none holds those of the whole micro-batch. Chunks cost one
            more product with the output matrix; below 8192 they are slow.
        seed: Initialisation and data order.
        trainable: Regular expressions over parameter names; only matching ones are trained. Empty trains all.
        unfreeze_at_step: After this step all parameters are trained; moments of those trained before go on. None never does.
        eval_interval: Steps between evaluations; 0 evaluates never.
        eval_at_start: Also before the first step.
        eval_batches: Global batches of one evaluation, per set.
        max_skipped_steps: Consecutive steps with a NaN or infinite loss or gradient before the run stops.
        spike_threshold: A loss this many standard deviations above its running mean is logged as a spike.
        time_limit_minutes: Save and leave when the run is this old; none never does.
        hang_timeout_seconds: A rank without progress for this long ends the job by name; longer than a checkpoint takes. 0: off.
        gc_interval: Steps between garbage collections, at the same step on every rank; 0 leaves it to Python.
        peak_tflops: Dense peak of one device for MFU, TFLOP/s; none takes the known figure of the device.
    """

    steps: int = 100
    micro_batch_size: int = 1
    global_batch_size: int = 8
    precision: Literal["bf16", "fp32"] = "bf16"
    z_loss: float = 0.0
    loss_chunk_tokens: int | None = None
    seed: int = 42
    trainable: list[str] = field(default_factory=list)
    unfreeze_at_step: int | None = None
    eval_interval: int = 0
    eval_at_start: bool = False
    eval_batches: int = 8
    max_skipped_steps: int = 10
    spike_threshold: float = 6.0
    time_limit_minutes: float | None = None
    hang_timeout_seconds: float = 1800.0
    gc_interval: int = 100
    peak_tflops: float | None = None


@dataclass(frozen=True)
class CheckpointConfig:
    """Checkpoints.

    Args:
        dir: Folder of the run: checkpoints, logs, index cache. A run started again with the same folder resumes.
        init_from: Checkpoint folder whose weights start a new run (as written by convert_checkpoint or another run).
        save_interval: Steps between checkpoints; 0 saves at the end only.
        async_save: Write in the background while training goes on.
        keep_last: Newest checkpoints kept; 0 keeps all.
        keep_every: Checkpoints at multiples of this many steps are kept for ever; 0 keeps none.
        verify: Compare checksums of the files at load.
    """

    dir: str = "runs/default"
    init_from: str | None = None
    save_interval: int = 0
    async_save: bool = False
    keep_last: int = 3
    keep_every: int = 0
    verify: bool = True


@dataclass(frozen=True)
class BenchmarksConfig:
    """Benchmarks of exported checkpoints while training goes on, by a process of its own (docs/evaluation.md).

    Args:
        interval: Steps between; a multiple of checkpoint.save_interval. 0 never does.
        tasks: Of tools/evaluate.py.
        data: Folder of local data sets, or fixtures; none takes them from the Hub.
        num_fewshot: Solved examples.
        limit: Rows of each task, at most; none takes all.
        device: cpu, or a GPU that the training does not use, such as cuda:7.
        threads: Of the process, on a CPU.
    """

    interval: int = 0
    tasks: list[str] = field(default_factory=lambda: ["polish_mc"])
    data: str | None = None
    num_fewshot: int = 0
    limit: int | None = None
    device: str = "cpu"
    threads: int = 1


@dataclass(frozen=True)
class LoggingConfig:
    """What is written, by rank 0.

    Args:
        interval: Steps between log lines.
        tensorboard: Write TensorBoard event files.
        wandb_project: Weights & Biases project; none does not log there (needs the [wandb] extra).
        run_name: Name shown in plots and trackers; none takes the folder's name.
    """

    interval: int = 1
    tensorboard: bool = True
    wandb_project: str | None = None
    run_name: str | None = None


@dataclass(frozen=True)
class Config:
    """The whole job.

    Args:
        model: The model.
        parallel: The layout over processes.
        data: The tokens.
        optimizer: AdamW.
        schedule: Learning rate over steps.
        training: The run.
        checkpoint: Checkpoints.
        benchmarks: Benchmarks of checkpoints, beside the training.
        logging: Logs.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    benchmarks: BenchmarksConfig = field(default_factory=BenchmarksConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
