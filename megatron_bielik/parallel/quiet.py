"""Hides the notes megatron-core prints about optional packages, and exactly these: they must not be a user's first screen."""

from __future__ import annotations

import logging
import warnings
from functools import partial

# Beginnings of the messages, as megatron-core 0.16.1 and torch word them.
_NOTES = (
    r"Transformer Engine and Apex are not installed",
    r"Apex is not installed",
    r"full scope is deprecated",
    r"The \.grad attribute of a Tensor that is not a leaf",
    r"`torch\.distributed\.\w+` is deprecated",
    r"`torch\.jit\.script` is deprecated",
    r"`(load|save)_state_dict` is deprecated",
    r"Please use DTensor instead",
    r"TypedStorage is deprecated",
)
_LOG_NOTES = {
    # On a CPU the two states are one, so a change inside the context is no accident.
    "megatron.core.tensor_parallel.random": "CPU RNG state changed within GPU RNG context",
    # Our MLP is a subclass that megatron-core's list does not know.
    "megatron.core.transformer.transformer_layer": "Unknown MLP type",
}


def silence_optional_package_notes() -> None:
    """Install warning filters for the known notes; every other warning stays visible."""
    for note in _NOTES:
        warnings.filterwarnings("ignore", message=note)
    for logger, note in _LOG_NOTES.items():
        logging.getLogger(logger).addFilter(partial(_is_not, note))


def _is_not(note: str, record: logging.LogRecord) -> bool:
    return note not in record.getMessage()
