"""Every parameter of a shape by megatron-core's name, with its size and whether tensor parallelism splits it.

The dry-run plan and the freezing of parameters read the same names without building a model. Layer numbers are global:
`decoder.layers.7.` is the eighth layer of the whole model on whichever pipeline rank it lives.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from megatron_bielik.presets import ModelShape
from megatron_bielik.settings import SettingsError

EMBEDDING = "embedding.word_embeddings.weight"
OUTPUT = "output_layer.weight"
FINAL_NORM = "decoder.final_layernorm.weight"


class Parameter(NamedTuple):
    """One parameter: megatron-core's name, its size (vocabulary not padded), whether TP splits it."""

    name: str
    size: int
    tp_sharded: bool


def parameter_table(shape: ModelShape) -> list[Parameter]:
    """Every parameter of the model in the order of a forward pass; a tied output matrix is not listed a second time.

    The sizes sum to shape.num_parameters(). Norms and the biases of row-parallel linears (linear_proj, linear_fc2) are
    held whole by every tensor-parallel rank; everything else is split evenly.
    """
    table = [Parameter(EMBEDDING, shape.vocab_size * shape.hidden_size, True)]
    for layer in range(shape.num_layers):
        table += _layer(shape, f"decoder.layers.{layer}.")
    table.append(Parameter(FINAL_NORM, shape.hidden_size, False))
    if not shape.tie_embeddings:
        table.append(Parameter(OUTPUT, shape.vocab_size * shape.hidden_size, True))
    return table


def _layer(shape: ModelShape, prefix: str) -> list[Parameter]:
    """The parameters of one layer, in the order of a forward pass."""
    h, f, q = shape.hidden_size, shape.ffn_hidden_size, shape.query_size
    qkv = q + 2 * shape.kv_size
    biases = shape.all_biases
    rows = [
        ("input_layernorm.weight", h, False, True),
        ("self_attention.linear_qkv.weight", h * qkv, True, True),
        ("self_attention.linear_qkv.bias", qkv, True, True),
        ("self_attention.linear_proj.weight", q * h, True, True),
        ("self_attention.linear_proj.bias", h, False, biases),
        ("pre_mlp_layernorm.weight", h, False, True),
        ("mlp.linear_fc1.weight", h * 2 * f, True, True),  # gate and up in one matrix
        ("mlp.linear_fc1.bias", 2 * f, True, biases),
        ("mlp.linear_fc2.weight", f * h, True, True),
        ("mlp.linear_fc2.bias", h, False, biases),
    ]
    return [Parameter(prefix + name, size, sharded) for name, size, sharded, exists in rows if exists]


def trainable_names(table: Iterable[Parameter], patterns: Sequence[str]) -> set[str]:
    """Names that at least one pattern finds (re.search); no patterns means all of them.

    Raises SettingsError for a pattern that is not a regular expression or that finds no parameter: a typing mistake there
    would freeze the layers that were meant to be trained.
    """
    names = [parameter.name for parameter in table]
    if not patterns:
        return set(names)
    chosen: set[str] = set()
    for pattern in patterns:
        try:
            found = {name for name in names if re.search(pattern, name)}
        except re.error as error:
            raise SettingsError(
                f"training.trainable has {pattern!r}, which is no regular expression: {error}"
            ) from None
        if not found:
            raise SettingsError(
                f"training.trainable has {pattern!r}, which matches no parameter; "
                f"names look like {names[0]!r} or 'decoder.layers.0.mlp.linear_fc1.weight'"
            )
        chosen |= found
    return chosen


def layer_of(name: str) -> int | None:
    """Global number of the layer a parameter belongs to; None for the embedding, the output matrix, the final norm."""
    match = re.match(r"decoder\.layers\.(\d+)\.", name)
    return int(match.group(1)) if match else None
