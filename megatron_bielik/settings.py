"""From a command line and YAML files to a checked Config; every contradiction is found before a process group exists."""

from __future__ import annotations

import difflib
import re
from argparse import ArgumentError, RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

from megatron_bielik.config import Config


class SettingsError(ValueError):
    """Options that are unknown, malformed or contradict each other; the message is one line for the user."""


class _HelpFormatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Types and defaults with every option, examples as they were written."""


class OptionsParser(ArgumentParser):
    """A parser that knows the dataclass its options come from."""

    options: type = Config


def make_parser(program: str, description: str, epilog: str = "", options: type = Config) -> OptionsParser:
    """A parser for --config FILE..., --print_config and every option of a dataclass as --section.name VALUE.

    Args:
        program: As the user calls it.
        description: What it does.
        epilog: Examples.
        options: A dataclass of dataclasses, one per section.
    """
    parser = OptionsParser(
        prog=program,
        usage=f"{program} --config FILE [--section.option VALUE]...",  # all options would fill two screens
        formatter_class=_HelpFormatter,
        description=description,
        epilog=epilog,
        exit_on_error=False,
        allow_abbrev=False,  # --optimizer.l must not set optimizer.lr
    )
    parser.add_argument(
        "--config",
        action="config",
        help="YAML file of options; the command line is read in order, so that a file wins over files and options before it",
    )
    parser.options = options
    parser.add_class_arguments(options, as_group=False)
    return parser


def parse(parser: OptionsParser, arguments: Sequence[str] | None = None) -> tuple[Any, Namespace]:
    """Read the options.

    Returns:
        The parser's dataclass, and all parsed values (for options that are not in it).

    Raises:
        SettingsError: An unknown option, with the nearest valid name, or a value of the wrong type.
    """
    try:
        values = parser.parse_args(arguments)
    except ArgumentError as error:
        raise SettingsError(_explain(str(error), parser)) from None
    kinds = get_type_hints(parser.options)
    for field in fields(parser.options):
        if is_dataclass(kinds[field.name]) and not isinstance(values[field.name], Namespace):
            raise SettingsError(f"{field.name} is {values[field.name]!r}, it must be a mapping of options")
    made = parser.instantiate(values)
    return parser.options(**{field.name: made[field.name] for field in fields(parser.options)}), values


def load_config(*paths: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Configuration of YAML files and "--section.name=value" overrides. Raises SettingsError."""
    arguments = [f"--config={path}" for path in paths]
    config: Config = parse(make_parser("load_config", ""), [*arguments, *overrides])[0]
    return config


def as_yaml(config: Any) -> str:
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


def _explain(message: str, parser: OptionsParser) -> str:
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
    kind = _type_of(parser.options, ".".join(keys)) if keys else None
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


def _unknown_option(found: str, parser: OptionsParser) -> str:
    names = [
        *option_names(parser.options),
        *_entry_names(parser.options),
        *(a.dest for a in parser._actions if "." not in a.dest and a.dest != "help"),
    ]
    # The last part is what people misspell; a name from another section counts too.
    near = difflib.get_close_matches(found, names, n=1, cutoff=0.6)
    leaf = {name.split(".")[-1]: name for name in names}
    near = near or [leaf[m] for m in difflib.get_close_matches(found.split(".")[-1], leaf, n=1)]
    return f"unknown option {found}" + (f"; did you mean {near[0]}?" if near else "; see --help")


def _entry_names(cls: Any, prefix: str = "") -> list[str]:
    """Dotted names of what the entries of lists of dataclasses have."""
    names = []
    for name, kind in get_type_hints(cls).items():
        if is_dataclass(kind):
            names += _entry_names(kind, f"{prefix}{name}.")
        elif get_origin(kind) is list and is_dataclass(entry := get_args(kind)[0]):
            names += [f"{prefix}{name}.{field.name}" for field in fields(entry)]
    return names


def _type_of(options: type, name: str) -> Any:
    """Type of an option by its dotted name, through lists of dataclasses too; none for other arguments."""
    kind: Any = options
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
