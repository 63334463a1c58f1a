"""Refuses post-training options that contradict each other, the number of processes or the files, in one line each."""

from __future__ import annotations

import importlib.util
import math
import os
from dataclasses import asdict
from pathlib import Path

from megatron_bielik.posttrain.config import DPOConfig, GRPOConfig, SFTConfig
from megatron_bielik.settings import SettingsError

AnyConfig = SFTConfig | DPOConfig | GRPOConfig


def world_size_of_launch() -> int:
    """Processes that torchrun or accelerate launch started; 1 without either."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def check(config: AnyConfig, world_size: int) -> int:
    """Refuse what cannot be run.

    Returns:
        Micro-steps of one step on each rank.

    Raises:
        SettingsError: The option, the value found, the value needed and the way out, in one line.
    """
    _check_finite(asdict(config))
    _check_ranges(config)
    _check_files(config)
    if isinstance(config, GRPOConfig):
        _check_grpo(config)
    elif isinstance(config, DPOConfig):
        _at_least("loss.positive", config.loss.positive, 0)
        _above("loss.beta", config.loss.beta, 0)
    training = config.training
    rows = training.micro_batch_size * world_size
    if training.global_batch_size % rows:
        raise SettingsError(
            f"training.global_batch_size is {training.global_batch_size}, it must be a multiple of "
            f"training.micro_batch_size x processes = {training.micro_batch_size} x {world_size}"
        )
    return training.global_batch_size // rows


def _check_finite(options: object, name: str = "") -> None:
    """YAML knows .nan and .inf."""
    if isinstance(options, dict):
        for key, value in options.items():
            _check_finite(value, f"{name}.{key}".lstrip("."))
    elif isinstance(options, list):
        for value in options:
            _check_finite(value, name)
    elif isinstance(options, float) and not math.isfinite(options):
        raise SettingsError(f"{name} is {options}, it must be a finite number")


def _check_ranges(config: AnyConfig) -> None:
    training, optimizer, schedule = config.training, config.optimizer, config.schedule
    at_least_one: dict[str, float] = {
        "training.micro_batch_size": training.micro_batch_size,
        "training.global_batch_size": training.global_batch_size,
        "training.max_skipped_steps": training.max_skipped_steps,
        "training.steps": 1 if training.steps is None else training.steps,
        "logging.interval": config.logging.interval,
    }
    not_negative: dict[str, float] = {
        "training.eval_interval": training.eval_interval,
        "checkpoint.save_interval": config.checkpoint.save_interval,
        "checkpoint.keep_last": config.checkpoint.keep_last,
        "schedule.warmup_steps": schedule.warmup_steps,
        "schedule.cooldown_steps": schedule.cooldown_steps,
        "optimizer.weight_decay": optimizer.weight_decay,
        "optimizer.clip_grad": optimizer.clip_grad,
    }
    for least, options in ((1, at_least_one), (0, not_negative)):
        for name, value in options.items():
            _at_least(name, value, least)
    _above("training.epochs", training.epochs, 0)
    _above("optimizer.lr", optimizer.lr, 0)
    _above("optimizer.epsilon", optimizer.epsilon, 0)
    _above("parallel.timeout_minutes", config.parallel.timeout_minutes, 0)
    if training.time_limit_minutes is not None:
        _above("training.time_limit_minutes", training.time_limit_minutes, 0)
    for name, decay in (("optimizer.beta1", optimizer.beta1), ("optimizer.beta2", optimizer.beta2)):
        if not 0 <= decay < 1:
            raise SettingsError(f"{name} is {decay}, it must be from 0 to below 1")
    if not 0 <= optimizer.min_lr <= optimizer.lr:
        raise SettingsError(
            f"optimizer.min_lr is {optimizer.min_lr}, it must lie between 0 and optimizer.lr {optimizer.lr}"
        )
    if not 0 <= config.data.max_bad_share <= 1:
        raise SettingsError(f"data.max_bad_share is {config.data.max_bad_share}, it must be from 0 to 1")
    if isinstance(config, SFTConfig | DPOConfig):
        _at_least("data.sequence_length", config.data.sequence_length, 2)


def _check_files(config: AnyConfig) -> None:
    if not config.model.path:
        raise SettingsError("model.path is empty: give a Hugging Face folder, --model.path FOLDER")
    if not (Path(config.model.path) / "config.json").is_file():
        raise SettingsError(f"model.path is {config.model.path}: no config.json in it; give a Hugging Face folder")
    if not config.data.train:
        raise SettingsError("data.train is empty: give files, for example --data.train '[chats.jsonl]'")
    needed = [
        (config.logging.wandb_project is not None, "wandb", "logging.wandb_project", "wandb", "set it to null"),
        (config.model.attention == "flash_attention_2", "flash_attn", "model.attention", None, "take sdpa"),
    ]
    if isinstance(config, GRPOConfig):
        needed.append((config.sampling.engine == "vllm", "vllm", "sampling.engine", "vllm", "take transformers"))
    for wanted, module, option, extra, way_out in needed:
        if wanted and not importlib.util.find_spec(module):
            install = f"'megatron-bielik[{extra}]'" if extra else module.replace("_", "-")
            raise SettingsError(f"{option} needs the package {module}: pip install {install}, or {way_out}")


def _check_grpo(config: GRPOConfig) -> None:
    sampling, loss, training = config.sampling, config.loss, config.training
    if not config.rewards.functions:
        raise SettingsError(
            "rewards.functions is empty: give some, --rewards.functions '[{name: math_answer, weight: 1}]'"
        )
    _at_least("sampling.group_size", sampling.group_size, 2)
    _at_least("sampling.max_completion_tokens", sampling.max_completion_tokens, 1)
    _at_least("loss.updates_per_batch", loss.updates_per_batch, 1)
    _at_least("data.max_prompt_tokens", config.data.max_prompt_tokens, 1)
    _above("sampling.temperature", sampling.temperature, 0)
    _above("rewards.timeout_seconds", config.rewards.timeout_seconds, 0)
    _at_least("loss.kl_coefficient", loss.kl_coefficient, 0)
    if not 0 < sampling.top_p <= 1:
        raise SettingsError(f"sampling.top_p is {sampling.top_p}, it must be above 0 and at most 1")
    for name, value in (("clip_low", loss.clip_low), ("clip_high", loss.clip_high)):
        _above(f"loss.{name}", value, 0)
    if not 0 <= config.rewards.max_failed_share <= 1:
        raise SettingsError(f"rewards.max_failed_share is {config.rewards.max_failed_share}, it must be from 0 to 1")
    if training.global_batch_size % sampling.group_size:
        raise SettingsError(
            f"training.global_batch_size is {training.global_batch_size} answers, it must be a multiple of "
            f"sampling.group_size {sampling.group_size}"
        )
    if loss.kl_limit is not None:
        _above("loss.kl_limit", loss.kl_limit, 0)
        if loss.kl_coefficient == 0:
            raise SettingsError(
                "loss.kl_limit needs the reference, which loss.kl_coefficient 0 leaves out: set it to a small number such "
                "as 1e-6, or loss.kl_limit to null"
            )
    if "cross_entropy" in config.model.kernels:
        raise SettingsError(
            "model.kernels has cross_entropy, which does not know sampling.temperature: leave it out for GRPO"
        )
    if loss.variant == "dr_grpo" and loss.scale != "none":
        raise SettingsError(f"loss.scale is {loss.scale}, Dr. GRPO does not scale advantages: set it to none")


def _at_least(name: str, value: float, least: float) -> None:
    if value < least:
        raise SettingsError(f"{name} is {value}, it must be at least {least}")


def _above(name: str, value: float, bound: float) -> None:
    if value <= bound:
        raise SettingsError(f"{name} is {value}, it must be above {bound}")
