"""From a command line and YAML files to a checked Config; every contradiction is found before a process group exists."""

from __future__ import annotations

import difflib
import math
import re
from argparse import ArgumentError
from collections.abc import Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentParser, Namespace

from megatron_bielik.config import Config, DatasetSpec
from megatron_bielik.presets import PRESETS


class SettingsError(ValueError):
    """Options that are unknown, malformed or contradict each other; the message is one line for the user."""


def make_parser(program: str, description: str, epilog: str = "") -> ArgumentParser:
    """A parser for --config FILE..., --print_config and every option of Config as --section.name VALUE."""
    parser = ArgumentParser(
        prog=program,
        description=description,
        epilog=epilog,
        exit_on_error=False,
        allow_abbrev=False,  # --optimizer.l must not set optimizer.lr
    )
    parser.add_argument(
        "--config", action="config", help="YAML file of options; several are read in order, later ones win"
    )
    parser.add_class_arguments(Config, as_group=False)
    return parser


def parse(parser: ArgumentParser, arguments: Sequence[str] | None = None) -> tuple[Config, Namespace]:
    """Read the options.

    Returns:
        The configuration, and all parsed values (for options that are not in Config).

    Raises:
        SettingsError: An unknown option, with the nearest valid name, or a value of the wrong type.
    """
    try:
        values = parser.parse_args(arguments)
    except ArgumentError as error:
        raise SettingsError(_explain(str(error), parser)) from None
    for field in fields(Config):
        if not isinstance(values[field.name], Namespace):
            raise SettingsError(f"{field.name} is {values[field.name]!r}, it must be a mapping of options")
    made = parser.instantiate(values)
    return Config(**{field.name: made[field.name] for field in fields(Config)}), values


def load_config(*paths: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Configuration of YAML files and "--section.name=value" overrides. Raises SettingsError."""
    arguments = [f"--config={path}" for path in paths]
    return parse(make_parser("load_config", ""), [*arguments, *overrides])[0]


def as_yaml(config: Config) -> str:
    """The configuration as a YAML file that --config reads back to the same values."""
    return yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True)


def option_names(cls: Any = Config, prefix: str = "") -> list[str]:
    """Dotted names of all options."""
    names = []
    for field in fields(cls):
        default = field.default_factory() if callable(field.default_factory) else field.default
        name = f"{prefix}{field.name}"
        names += option_names(type(default), f"{name}.") if is_dataclass(default) else [name]
    return names


def _explain(message: str, parser: ArgumentParser) -> str:
    """jsonargparse's message in one line: the nearest valid name for an unknown one, the type needed for a wrong value."""
    keys = re.findall(r'Parser key "([^"]+)"', message)
    message = " ".join(message.split())
    for pattern in _UNKNOWN:
        if unknown := re.search(pattern, message):
            return _unknown_option(".".join([*keys, *unknown.groups()]), parser)
    required = re.search(r"arguments are required: (\w+)", message)
    if keys and required:
        return f"{keys[0]}: an entry lacks {required[1]}"
    value = re.search(r"(?:.*Given value|.*?Got value): (.*?)(?: Subclass types expect|$)", message)
    kind = _type_of(".".join(keys)) if keys else None
    if value and kind is not None:
        return f"{'.'.join(keys)} is {value[1]!r}, it must be {_in_words(kind)}"
    missing = re.search(r"File does not exist: '?([^']+)'?", message)
    if missing:
        return f"--config: {missing[1]} not found"
    if "config:" in message:
        return f"--config: the file must be a YAML mapping of sections ({message})"
    return message


_UNKNOWN = (
    r"Group '([^']+)' does not accept option '([^']+)'",
    r"Option '([^']+)' is not accepted",
    r"unrecognized arguments: --([^\s=]+)",
)


def _unknown_option(found: str, parser: ArgumentParser) -> str:
    entries = [f"data.train.{field.name}" for field in fields(DatasetSpec)]
    names = [*option_names(), *entries, *(a.dest for a in parser._actions if "." not in a.dest and a.dest != "help")]
    # The last part is what people misspell; a name from another section counts too.
    near = difflib.get_close_matches(found, names, n=1, cutoff=0.6)
    leaf = {name.split(".")[-1]: name for name in names}
    near = near or [leaf[m] for m in difflib.get_close_matches(found.split(".")[-1], leaf, n=1)]
    return f"unknown option {found}" + (f"; did you mean {near[0]}?" if near else "; see --help")


def _type_of(name: str) -> Any:
    """Type of an option by its dotted name, through lists of dataclasses too; none for other arguments."""
    kind: Any = Config
    for part in name.split("."):
        kind = get_args(kind)[0] if get_origin(kind) is list else kind
        if not is_dataclass(kind) or part not in (hints := get_type_hints(kind)):
            return None
        kind = hints[part]
    return kind


def _in_words(kind: Any) -> str:
    """A type as a user calls it."""
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_in_words(part) for part in get_args(kind))
    if get_origin(kind) is list:
        return f"a list, each entry {_in_words(get_args(kind)[0])}"
    if get_origin(kind) is dict:
        return f"a mapping from names, each value {_in_words(get_args(kind)[1])}"
    if is_dataclass(kind):
        return "a mapping of " + ", ".join(field.name for field in fields(kind))
    words = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text", type(None): "null"}
    return words[kind]


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


def check_data(config: Config) -> None:
    """Refuse a training run whose files are not there. Raises SettingsError."""
    if not config.data.train:
        raise SettingsError(
            "data.train is empty: give shards, for example --data.train '[{prefix: data/pl, weight: 1}]'"
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
    tokenizer = config.data.tokenizer
    if tokenizer is not None and not (Path(tokenizer) / "tokenizer.json").is_file():
        raise SettingsError(f"data.tokenizer: {tokenizer} has no tokenizer.json, needs a Hugging Face tokenizer folder")


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
        "parallel.pipeline_parallel_size": parallel.pipeline_parallel_size,
        "parallel.virtual_pipeline_parallel_size": parallel.virtual_pipeline_parallel_size,
        "data.sequence_length": config.data.sequence_length,
        "training.steps": training.steps,
        "training.micro_batch_size": training.micro_batch_size,
        "training.global_batch_size": training.global_batch_size,
        "training.eval_batches": training.eval_batches,
        "training.max_skipped_steps": training.max_skipped_steps,
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
        "training.gc_interval": training.gc_interval,
        "training.hang_timeout_seconds": training.hang_timeout_seconds,
        "training.unfreeze_at_step": training.unfreeze_at_step,
        "checkpoint.save_interval": config.checkpoint.save_interval,
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
    if parallel.sequence_parallel:
        tokens = training.micro_batch_size * config.data.sequence_length
        _must_divide(
            "training.micro_batch_size * data.sequence_length", tokens, "parallel.tensor_parallel_size", tensor
        )
    if parallel.virtual_pipeline_parallel_size is not None and (virtual < 2 or pipeline < 2):
        raise SettingsError(
            f"parallel.virtual_pipeline_parallel_size is {virtual} with pipeline_parallel_size {pipeline}; "
            "interleaving needs at least 2 of both, otherwise set it to null"
        )
    _must_divide("model.num_layers", shape.num_layers, "pipeline_parallel_size * virtual size", pipeline * virtual)
    _must_divide("world_size", world_size, "tensor_parallel_size * pipeline_parallel_size", tensor * pipeline)
    data_parallel = world_size // (tensor * pipeline)
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
    if training.unfreeze_at_step is not None and not training.trainable:
        raise SettingsError(
            "training.unfreeze_at_step is set but training.trainable is empty: everything is trained anyway"
        )


def _must_divide(name: str, value: int, divisor_name: str, divisor: int) -> None:
    if value % divisor:
        below, above = value // divisor * divisor, (value // divisor + 1) * divisor
        nearest = f"{below} and {above}" if below else str(above)
        raise SettingsError(f"{name} is {value}, which {divisor_name} = {divisor} does not divide; it does {nearest}")
