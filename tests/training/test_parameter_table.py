"""The parameter table sums to the model's size, and patterns choose what they say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from megatron_bielik.presets import PRESETS, Architecture
from megatron_bielik.training.parameter_table import layer_of, parameter_table, trainable_names


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize("architecture", ["qwen2", "bielik"])
@pytest.mark.parametrize("tied", [True, False])
def test_sums_to_the_model(preset: str, architecture: Architecture, tied: bool) -> None:
    shape = replace(PRESETS[preset], architecture=architecture, tie_embeddings=tied)
    table = parameter_table(shape)
    assert sum(parameter.size for parameter in table) == shape.num_parameters()
    assert len({parameter.name for parameter in table}) == len(table)


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [
        ("bielik-1.5b-v3", 1_596_507_648),
        ("bielik-4.5b-v3", 4_757_260_288),
        ("qwen2.5-1.5b", 1_543_714_304),
        ("qwen2.5-3b", 3_085_938_688),
    ],
)
def test_published_sizes(preset: str, parameters: int) -> None:
    assert sum(parameter.size for parameter in parameter_table(PRESETS[preset])) == parameters


def test_what_tensor_parallelism_does_not_split() -> None:
    whole = {parameter.name for parameter in parameter_table(PRESETS["tiny"]) if not parameter.tp_sharded}
    ends = {name.removeprefix("decoder.layers.0.") for name in whole if layer_of(name) in (0, None)}
    assert ends == {
        "input_layernorm.weight",
        "pre_mlp_layernorm.weight",
        "self_attention.linear_proj.bias",
        "mlp.linear_fc2.bias",
        "decoder.final_layernorm.weight",
    }


def test_patterns() -> None:
    table = parameter_table(PRESETS["bielik-4.5b-v3"])
    assert trainable_names(table, []) == {parameter.name for parameter in table}
    chosen = trainable_names(table, [r"^decoder\.layers\.(0|5)\.", "^output_layer"])
    assert {layer_of(name) for name in chosen} == {0, 5, None}
    assert len(chosen) == 2 * 10 + 1
    with pytest.raises(ValueError, match="matches no parameter"):
        trainable_names(table, [r"decoder\.layers\.99\."])
    with pytest.raises(ValueError, match="no regular expression"):
        trainable_names(table, ["("])


def test_layer_numbers() -> None:
    assert layer_of("decoder.layers.17.mlp.linear_fc1.weight") == 17
    assert layer_of("decoder.final_layernorm.weight") is None
