"""What ends a post-training command in one line, and with which exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from megatron_bielik.data.errors import DataError
from megatron_bielik.posttrain.rewards.spec import RewardError
from megatron_bielik.settings import SettingsError


class RunError(RuntimeError):
    """What stops a run and is the user's to mend; the message is one line."""


class ChatError(RunError):
    """A tokenizer, template or conversation that cannot be used; the message is one line for the user."""


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
