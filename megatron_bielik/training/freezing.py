"""Which parameters are trained: patterns over the names that parameters have in checkpoints."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch.distributed as dist

from megatron_bielik.config import TrainingConfig
from megatron_bielik.model.gpt import BielikModel
from megatron_bielik.settings import SettingsError


def trainable_patterns(training: TrainingConfig, step: int) -> tuple[str, ...]:
    """The patterns in force for the step after `step`; empty when everything is trained."""
    if training.unfreeze_at_step is not None and step >= training.unfreeze_at_step:
        return ()
    return tuple(training.trainable)


def apply_patterns(chunks: Sequence[BielikModel], patterns: Sequence[str]) -> tuple[int, int]:
    """Set requires_grad: with no pattern everywhere, else where one is found in the parameter's name (re.search).

    The copy of a tied embedding that the last pipeline stage holds goes by the embedding's name, as without pipelines.

    Returns:
        Trained and all parameters over this rank's chunks.

    Raises:
        SettingsError: A pattern that matches nothing in the whole model, or a rank without trained weights.
    """
    compiled = [re.compile(pattern) for pattern in patterns]
    used, trained, total = set(), 0, 0
    for chunk in chunks:
        for name, parameter in chunk.global_names():
            matching = {pattern.pattern for pattern in compiled if pattern.search(name)}
            used |= matching
            parameter.requires_grad = bool(matching) or not compiled
            total += parameter.numel()
            trained += parameter.numel() if parameter.requires_grad else 0
    everywhere: list[tuple[set[str], int]] = [(set(), 0)] * dist.get_world_size()
    dist.all_gather_object(everywhere, (used, trained))
    unused = set(patterns) - set().union(*(found for found, _ in everywhere))
    if unused:
        raise SettingsError(
            f"training.trainable: {sorted(unused)[0]!r} matches no parameter; "
            "names look like decoder.layers.0.mlp.linear_fc1.weight, embedding.word_embeddings.weight, output_layer.weight"
        )
    empty = [rank for rank, (_, count) in enumerate(everywhere) if count == 0]
    if empty:
        raise SettingsError(
            f"training.trainable leaves rank {empty[0]} nothing to train; "
            "use fewer pipeline stages, or patterns that reach every stage"
        )
    return trained, total
