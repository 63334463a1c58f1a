"""The name tables: they name exactly the tensors transformers has, and merging is undone by splitting."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from megatron_bielik.presets import PRESETS, ModelShape
from megatron_bielik.surgery.architecture import VOCABULARY_TENSORS, mappings, merge_qkv, split_qkv


@pytest.mark.parametrize("name", PRESETS)
def test_sizes_add_up(name: str) -> None:
    """Every parameter is mapped once, on both sides."""
    shape, table = PRESETS[name], list(mappings(PRESETS[name]))
    assert sum(torch.Size(m.native_shape).numel() for m in table) == shape.num_parameters()
    assert sum(torch.Size(size).numel() for m in table for size in m.their_shapes) == shape.num_parameters()
    assert len({m.native for m in table}) == len(table)
    theirs = [name for m in table for name in m.theirs]
    assert len(set(theirs)) == len(theirs)
    assert {m.native for m in table if m.native_shape[0] == shape.vocab_size} <= VOCABULARY_TENSORS


@pytest.mark.parametrize("name", PRESETS)
def test_names_and_shapes_are_those_of_transformers(name: str) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    shape = replace(PRESETS[name], num_layers=2)
    sizes: dict[str, Any] = {
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.ffn_hidden_size,
        "num_hidden_layers": 2,
        "num_attention_heads": shape.num_attention_heads,
        "num_key_value_heads": shape.num_query_groups,
        "head_dim": shape.head_dim,
        "tie_word_embeddings": shape.tie_embeddings,
    }
    with torch.device("meta"):
        if shape.architecture == "bielik":
            model: Any = LlamaForCausalLM(LlamaConfig(attention_bias=True, mlp_bias=True, **sizes))
        else:
            model = Qwen2ForCausalLM(Qwen2Config(**sizes))
    theirs = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    pairs = (pair for m in mappings(shape) for pair in zip(m.theirs, m.their_shapes, strict=True))
    assert dict(pairs) == theirs


def test_qkv_interleaves_by_group() -> None:
    """2 groups of 3 query heads, head_dim 1: q0 q1 q2 k0 v0, then q3 q4 q5 k1 v1, so that ranks cut between groups."""
    q, k, v = torch.tensor([0, 1, 2, 3, 4, 5]), torch.tensor([10, 11]), torch.tensor([20, 21])
    merged = merge_qkv([q, k, v], groups=2)
    assert merged.tolist() == [0, 1, 2, 10, 20, 3, 4, 5, 11, 21]
    for part, wanted in zip(split_qkv(merged, groups=2, query_heads=6), (q, k, v), strict=True):
        assert torch.equal(part, wanted)


def test_gate_comes_before_up() -> None:
    shape = replace(PRESETS["tiny"], num_layers=1, ffn_hidden_size=3, hidden_size=2)
    by_name = {m.native: m for m in mappings(shape)}
    fc1 = by_name["decoder.layers.0.mlp.linear_fc1.weight"]
    assert [name.split(".")[-2] for name in fc1.theirs] == ["gate_proj", "up_proj"]
    gate, up = torch.zeros(3, 2), torch.ones(3, 2)
    assert torch.equal(fc1.merge([gate, up]), torch.cat((gate, up)))


@pytest.mark.parametrize(
    "shape",
    [
        ModelShape("bielik", 2, 96, 260, 6, 2, 1001, 64, tie_embeddings=False, head_dim=20),
        ModelShape("qwen2", 1, 10, 7, 5, 5, 11, 64, tie_embeddings=True, head_dim=2),  # a key head per query head
        ModelShape("qwen2", 1, 10, 7, 5, 1, 11, 64, tie_embeddings=False, head_dim=2),  # one for all
    ],
)
def test_split_undoes_merge(shape: ModelShape) -> None:
    generator = torch.Generator().manual_seed(0)
    for mapping in mappings(shape):
        parts = [torch.randn(size, generator=generator) for size in mapping.their_shapes]
        merged = mapping.merge(parts)
        assert tuple(merged.shape) == mapping.native_shape
        again = mapping.split(merged)
        assert len(again) == len(parts)
        assert all(torch.equal(a, b) for a, b in zip(again, parts, strict=True))
