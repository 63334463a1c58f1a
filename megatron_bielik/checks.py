"""Refuses options that contradict each other, the number of processes or the files, in one line each."""

from __future__ import annotations

import difflib
import importlib.util
import json
import math
import re
from dataclasses import asdict
from pathlib import Path

from megatron_bielik.config import Config
from megatron_bielik.presets import PRESETS
from megatron_bielik.settings import SettingsError


def check(config: Config, world_size: int) -> tuple[int, int]:
    """Refuse options that contradict each other or the number of processes.

    Returns:
        Data-parallel size, and micro-batches per step and data-parallel rank.

    Raises:
        SettingsError: The option, the value found, the value needed and the way out, in one line.
    """
    _check_finite(config)
    _check_ranges(config, world_size)
    layout = _check_layout(config, world_size)
    _check_schedule(config)
    return layout


def check_run(config: Config) -> None:
    """Refuse a training run for which files or packages are missing on this machine. Raises SettingsError."""
    te, project = config.model.implementation == "transformer_engine", config.logging.wandb_project
    if te and not importlib.util.find_spec("transformer_engine"):
        raise SettingsError(
            "model.implementation is transformer_engine but the package is not installed: "
            "pip install 'megatron-bielik[te]' on a machine with a GPU, or use local"
        )
    if project is not None and not importlib.util.find_spec("wandb"):
        raise SettingsError(
            f"logging.wandb_project is {project!r} but the package wandb is not installed: "
            "pip install 'megatron-bielik[wandb]', or set logging.wandb_project to null"
        )
    if config.model.attention == "flash3" and not importlib.util.find_spec("flash_attn_interface"):
        raise SettingsError(
            "model.attention is flash3 but the module flash_attn_interface is not installed: install FlashAttention-3 "
            "(package flash_attn_3), or use auto"
        )
    if not config.data.train:
        raise SettingsError(
            "data.train is empty: give shards, for example --data.train '[{prefix: data/pl, weight: 1}]'"
        )
    shares = zip(("valid", "test"), config.data.split.split(",")[1:], strict=False)
    made = {name for name, share in shares if share.strip(" 0.")}
    for name in sorted(made & config.data.valid.keys()):
        raise SettingsError(
            f"data.valid names a set {name!r}, which data.split {config.data.split} makes too: rename it"
        )
    prefixes = [spec.prefix for spec in config.data.train]
    for prefix in prefixes:
        if prefixes.count(prefix) > 1:
            raise SettingsError(f"data.train names {prefix} twice: give it once, with the sum of the weights")
    for spec in config.data.train:
        if not 0 < spec.weight < math.inf:
            raise SettingsError(
                f"data.train: the weight of {spec.prefix} is {spec.weight:g}, it must be above 0 and finite"
            )
    for option, prefix in [("data.train", p) for p in prefixes] + [
        ("data.valid", p) for p in config.data.valid.values()
    ]:
        for path in (Path(f"{prefix}.bin"), Path(f"{prefix}.idx")):
            if not path.is_file():
                raise SettingsError(
                    f"{option}: {path} not found; make it with tools/preprocess_data.py --output-prefix {prefix}"
                )
        _check_vocabulary(config, option, Path(f"{prefix}.json"))
    tokenizer = config.data.tokenizer
    if tokenizer is not None and not (Path(tokenizer) / "tokenizer.json").is_file():
        raise SettingsError(f"data.tokenizer: {tokenizer} has no tokenizer.json, needs a Hugging Face tokenizer folder")


def _check_vocabulary(config: Config, option: str, description: Path) -> None:
    """A shard's ids must lie in the model's vocabulary; preprocess_data writes which tokenizer made them."""
    try:
        shard = int(json.loads(description.read_text())["vocab_size"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return  # a shard from elsewhere: an id outside the vocabulary ends the run when it is read
    model = config.model.shape().vocab_size
    if shard > model:
        raise SettingsError(
            f"{option}: {description.with_suffix('')} was made with a vocabulary of {shard}, the model has {model}: "
            "use the model's tokenizer, or set model.vocab_size for a new model"
        )


def _check_finite(config: Config) -> None:
    """YAML knows .nan and .inf."""
    for section, options in asdict(config).items():
        for name, value in options.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise SettingsError(f"{section}.{name} is {value}, it must be a finite number")


def _check_ranges(config: Config, world_size: int) -> None:
    if config.model.preset not in PRESETS:
        near = difflib.get_close_matches(config.model.preset, PRESETS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise SettingsError(f"model.preset is {config.model.preset!r}, known are {', '.join(PRESETS)}{hint}")
    shape, parallel, training, optimizer = config.model.shape(), config.parallel, config.training, config.optimizer
    at_least_one: dict[str, float | None] = {
        "world_size": world_size,
        **{f"model.{name}": value for name, value in vars(shape).items() if type(value) is int},
        "model.make_vocab_size_divisible_by": config.model.make_vocab_size_divisible_by,
        "parallel.tensor_parallel_size": parallel.tensor_parallel_size,
        "parallel.context_parallel_size": parallel.context_parallel_size,
        "parallel.pipeline_parallel_size": parallel.pipeline_parallel_size,
        "parallel.virtual_pipeline_parallel_size": parallel.virtual_pipeline_parallel_size,
        "data.sequence_length": config.data.sequence_length,
        "training.steps": training.steps,
        "training.micro_batch_size": training.micro_batch_size,
        "training.global_batch_size": training.global_batch_size,
        "training.eval_batches": training.eval_batches,
        "training.max_skipped_steps": training.max_skipped_steps,
        "training.loss_chunk_tokens": training.loss_chunk_tokens,
        "logging.interval": config.logging.interval,
    }
    for name, value in at_least_one.items():
        if value is not None and value < 1:
            raise SettingsError(f"{name} is {value}, it must be at least 1")
    not_negative: dict[str, float | None] = {
        "optimizer.lr": optimizer.lr,
        "optimizer.min_lr": optimizer.min_lr,
        "optimizer.weight_decay": optimizer.weight_decay,
        "optimizer.clip_grad": optimizer.clip_grad,
        "schedule.warmup_steps": config.schedule.warmup_steps,
        "schedule.cooldown_steps": config.schedule.cooldown_steps,
        "training.eval_interval": training.eval_interval,
        "training.z_loss": training.z_loss,
        "training.gc_interval": training.gc_interval,
        "training.hang_timeout_seconds": training.hang_timeout_seconds,
        "training.unfreeze_at_step": training.unfreeze_at_step,
        "checkpoint.save_interval": config.checkpoint.save_interval,
        "benchmarks.interval": config.benchmarks.interval,
        "benchmarks.num_fewshot": config.benchmarks.num_fewshot,
        "checkpoint.keep_last": config.checkpoint.keep_last,
        "checkpoint.keep_every": config.checkpoint.keep_every,
    }
    for name, value in not_negative.items():
        if value is not None and not value >= 0:
            raise SettingsError(f"{name} is {value}, it must not be negative")
    above_zero: dict[str, float | None] = {
        "model.rope_theta": shape.rope_theta,
        "model.norm_epsilon": shape.norm_epsilon,
        "model.init_std": config.model.init_std,
        "parallel.timeout_minutes": parallel.timeout_minutes,
        "optimizer.epsilon": optimizer.epsilon,
        "schedule.decay_steps": config.schedule.decay_steps,
        "training.spike_threshold": training.spike_threshold,
        "training.time_limit_minutes": training.time_limit_minutes,
        "training.peak_tflops": training.peak_tflops,
    }
    for name, value in above_zero.items():
        if value is not None and not value > 0:
            raise SettingsError(f"{name} is {value}, it must be above 0")
    for name, value in (("beta1", optimizer.beta1), ("beta2", optimizer.beta2)):
        if not 0 <= value < 1:
            raise SettingsError(f"optimizer.{name} is {value}, it must lie in [0, 1)")
    if shape.head_dim % 2:
        raise SettingsError(f"model.head_dim is {shape.head_dim}, rotary embedding needs an even number")
    if config.model.attention not in ("auto", "torch") and (shape.head_dim % 8 or shape.head_dim > 256):
        raise SettingsError(
            f"model.attention is {config.model.attention}, which needs a head_dim that is a multiple of 8 and at most 256; "
            f"model.head_dim is {shape.head_dim}: use attention auto, which then takes plain torch"
        )
    _must_divide(
        "model.num_attention_heads", shape.num_attention_heads, "model.num_query_groups", shape.num_query_groups
    )
    if config.data.sequence_length > shape.max_position_embeddings:
        raise SettingsError(
            f"data.sequence_length is {config.data.sequence_length}, the model's max_position_embeddings "
            f"{shape.max_position_embeddings}: shorten the first or raise model.max_position_embeddings"
        )


def _check_layout(config: Config, world_size: int) -> tuple[int, int]:
    shape, parallel, training = config.model.shape(), config.parallel, config.training
    tensor, pipeline = parallel.tensor_parallel_size, parallel.pipeline_parallel_size
    virtual = parallel.virtual_pipeline_parallel_size or 1
    for name, value in (("num_attention_heads", shape.num_attention_heads), ("ffn_hidden_size", shape.ffn_hidden_size)):
        _must_divide(f"model.{name}", value, "parallel.tensor_parallel_size", tensor)
    groups = shape.num_query_groups
    if groups % tensor and tensor % groups:
        raise SettingsError(
            f"parallel.tensor_parallel_size is {tensor}; with model.num_query_groups {groups} it must divide that number "
            "or be a multiple of it"
        )
    if parallel.sequence_parallel and tensor == 1:
        raise SettingsError(
            "parallel.sequence_parallel splits inside the tensor-parallel group, but parallel.tensor_parallel_size is 1: "
            "raise it or turn sequence_parallel off"
        )
    if config.model.fp8 != "none":
        sizes = {"query_size / tp": shape.query_size // tensor, "ffn_hidden_size / tp": shape.ffn_hidden_size // tensor}
        for name, value in {"hidden_size": shape.hidden_size, **sizes, "kv_size": shape.kv_size}.items():
            _must_divide(f"model.fp8 is {config.model.fp8}: {name}", value, "the unit of 8-bit products", 16)
        if training.precision != "bf16" or config.model.implementation != "local":
            raise SettingsError(
                f"model.fp8 is {config.model.fp8}, which needs training.precision bf16 and model.implementation local"
            )
    context = parallel.context_parallel_size
    tokens = training.micro_batch_size * config.data.sequence_length
    if context > 1:
        if config.model.implementation == "transformer_engine":
            raise SettingsError(
                f"parallel.context_parallel_size is {context}, which model.implementation transformer_engine does not take "
                "here: use local"
            )
        name = "training.micro_batch_size * data.sequence_length"
        _must_divide(name, tokens, "2 * parallel.context_parallel_size", 2 * context)
    if parallel.sequence_parallel:
        name = "training.micro_batch_size * data.sequence_length" + (f" / {context}" if context > 1 else "")
        _must_divide(name, tokens // context, "parallel.tensor_parallel_size", tensor)
    if parallel.virtual_pipeline_parallel_size is not None and (virtual < 2 or pipeline < 2):
        raise SettingsError(
            f"parallel.virtual_pipeline_parallel_size is {virtual} with pipeline_parallel_size {pipeline}; "
            "interleaving needs at least 2 of both, otherwise set it to null"
        )
    _must_divide("model.num_layers", shape.num_layers, "pipeline_parallel_size * virtual size", pipeline * virtual)
    sharing = parallel.model_parallel_size
    _must_divide(
        "world_size", world_size, "tensor_parallel_size * pipeline_parallel_size * context_parallel_size", sharing
    )
    data_parallel = world_size // sharing
    batch, per_round = training.global_batch_size, training.micro_batch_size * data_parallel
    _must_divide("training.global_batch_size", batch, "micro_batch_size * data-parallel size", per_round)
    micro_batches = batch // per_round
    if virtual > 1 and micro_batches % pipeline:
        raise SettingsError(
            f"a step has {micro_batches} micro-batches per data-parallel rank; the interleaved schedule needs a "
            f"multiple of pipeline_parallel_size {pipeline}: change training.global_batch_size or micro_batch_size"
        )
    return data_parallel, micro_batches


def _check_schedule(config: Config) -> None:
    schedule, training, optimizer = config.schedule, config.training, config.optimizer
    end = schedule.decay_steps or training.steps
    if schedule.decay != "constant" and schedule.warmup_steps + schedule.cooldown_steps > end:
        raise SettingsError(
            f"schedule.warmup_steps {schedule.warmup_steps} and cooldown_steps {schedule.cooldown_steps} do not fit into "
            f"the {end} steps of the schedule: shorten them or raise schedule.decay_steps or training.steps"
        )
    if schedule.cooldown_steps and schedule.decay != "wsd":
        raise SettingsError(f"schedule.cooldown_steps is for decay: wsd, but schedule.decay is {schedule.decay}")
    if optimizer.min_lr > optimizer.lr:
        raise SettingsError(f"optimizer.min_lr {optimizer.min_lr:g} is above optimizer.lr {optimizer.lr:g}")
    for pattern in training.trainable:
        try:
            re.compile(pattern)
        except re.error as error:
            raise SettingsError(f"training.trainable: {pattern!r} is no regular expression ({error})") from None
    if (interval := config.benchmarks.interval) and (
        not config.checkpoint.save_interval or interval % config.checkpoint.save_interval
    ):
        raise SettingsError(
            f"benchmarks.interval is {interval}, it must be a multiple of checkpoint.save_interval, "
            f"{config.checkpoint.save_interval}: checkpoints are what is evaluated"
        )
    if training.unfreeze_at_step is not None and not training.trainable:
        raise SettingsError(
            "training.unfreeze_at_step is set but training.trainable is empty: everything is trained anyway"
        )


def _must_divide(name: str, value: int, divisor_name: str, divisor: int) -> None:
    if value % divisor:
        below, above = value // divisor * divisor, (value // divisor + 1) * divisor
        nearest = f"{below} and {above}" if below else str(above)
        raise SettingsError(
            f"{name} is {value}, which {divisor_name} = {divisor} does not divide: change one of them "
            f"({divisor} divides {nearest})"
        )
