"""What ends a post-training command in one line."""

from __future__ import annotations


class RunError(RuntimeError):
    """What stops a run and is the user's to mend; the message is one line."""


class ChatError(RunError):
    """A tokenizer, template or conversation that cannot be used; the message is one line for the user."""
