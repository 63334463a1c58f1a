"""What the three commands share: options to a checked config, one line for what the user can mend, prepared and reported data."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_bielik.data.errors import DataError
from megatron_bielik.data.processes import follow_launcher
from megatron_bielik.posttrain.checks import check, world_size_of_launch
from megatron_bielik.posttrain.errors import RunError
from megatron_bielik.posttrain.rewards.spec import RewardError
from megatron_bielik.settings import SettingsError, make_parser, parse

if TYPE_CHECKING:
    from megatron_bielik.posttrain.chat import ChatEncoder
    from megatron_bielik.posttrain.data import Prepared


def start(
    method: str,
    description: str,
    examples: str,
    options: type,
    train: Callable[[Any, int, bool], int],
    arguments: list[str] | None,
) -> int:
    """Parse, check and train.

    Args:
        method: sft, dpo or grpo.
        description: What it does, for --help.
        examples: Commands, for --help.
        options: The config's class.
        train: Called with the config, micro-steps of a step on each rank, and whether to prepare and report the data only.
        arguments: None takes the command line's.

    Returns:
        Exit code: 0 done or cleanly stopped, 1 stopped by a failure, 2 unusable options.
    """

    def job() -> int:
        follow_launcher()
        parser = make_parser(f"python -m megatron_bielik.posttrain.{method}", description, examples, options)
        parser.add_argument("--dry_run", action="store_true", help="prepare the data, print the report, and leave")
        config, values = parse(parser, arguments)
        return train(config, check(config, world_size_of_launch()), values.dry_run)

    return one_line(job)


def one_line(function: Callable[[], int]) -> int:
    """Run, turning what the user can mend into one line. Returns the exit code: 0, 1 for a failure, 2 for bad options."""
    rank = os.environ.get("RANK", "0")
    try:
        return function()
    except SettingsError as error:
        if rank == "0":  # every process finds the same; one says it
            print(f"error: {error}", file=sys.stderr)
        return 2
    except (RunError, RewardError, DataError, OSError) as error:
        print(f"error: {error}" + ("" if rank == "0" else f" (rank {rank})"), file=sys.stderr)
        return 1


def prepared(config: Any, encoder: ChatEncoder, name: str, what: str, encode: Callable[..., Prepared]) -> Prepared:
    """A set of the run, encoded or found.

    Args:
        config: Of the run.
        encoder: Tokenizer and template.
        name: train or valid.
        what: What a row is, in the plural.
        encode: encode_set, encode_pairs or encode_prompts.

    Raises:
        DataError: Files that are missing or damaged, or too many rows that cannot be used.
    """
    from megatron_bielik.command import rate_line
    from megatron_bielik.posttrain.chat import fingerprint

    patterns = config.data.train if name == "train" else config.data.valid
    folder = Path(config.checkpoint.dir) / "data"
    with rate_line(what, "million tokens") as show:
        found = encode(folder, name, patterns, config.data, encoder, fingerprint(encoder.tokenizer), show)
    found.report.refuse_if_bad(f"data.{name}", config.data.max_bad_share)
    return found
