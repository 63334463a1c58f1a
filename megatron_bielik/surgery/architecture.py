"""Names and layouts of weights in Hugging Face models and in ours: one table per architecture, read in both directions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from megatron_bielik.presets import Architecture, ModelShape

Tensors = Sequence[torch.Tensor]


@dataclass(frozen=True)
class Mapping:
    """One of our tensors and the Hugging Face tensors it is made of.

    Args:
        native: Key in our checkpoints.
        theirs: Keys in the Hugging Face model, in the order that `merge` takes and `split` gives.
        native_shape, their_shapes: Shapes of these tensors.
        merge: Theirs to ours.
        split: Ours to theirs.
    """

    native: str
    theirs: tuple[str, ...]
    native_shape: tuple[int, ...]
    their_shapes: tuple[tuple[int, ...], ...]
    merge: Callable[[Tensors], torch.Tensor]
    split: Callable[[torch.Tensor], Tensors]


@dataclass(frozen=True)
class Names:
    """What sets an architecture apart; the tables below serve both.

    Args:
        hf_class, model_type: As config.json names them.
        biased: Linears of a layer with a bias.
    """

    hf_class: str
    model_type: str
    biased: frozenset[str]


# Their first dimension is the vocabulary, padded in checkpoints.
VOCABULARY_TENSORS = frozenset({"embedding.word_embeddings.weight", "output_layer.weight"})
_TOP = {
    "embedding.word_embeddings.weight": "model.embed_tokens.weight",
    "decoder.final_layernorm.weight": "model.norm.weight",
    "output_layer.weight": "lm_head.weight",
}
_NORMS = {
    "decoder.layers.{i}.input_layernorm.weight": "model.layers.{i}.input_layernorm.weight",
    "decoder.layers.{i}.pre_mlp_layernorm.weight": "model.layers.{i}.post_attention_layernorm.weight",
}
_LINEARS = {
    "decoder.layers.{i}.self_attention.linear_qkv": (
        "model.layers.{i}.self_attn.q_proj",
        "model.layers.{i}.self_attn.k_proj",
        "model.layers.{i}.self_attn.v_proj",
    ),
    "decoder.layers.{i}.self_attention.linear_proj": ("model.layers.{i}.self_attn.o_proj",),
    "decoder.layers.{i}.mlp.linear_fc1": ("model.layers.{i}.mlp.gate_proj", "model.layers.{i}.mlp.up_proj"),
    "decoder.layers.{i}.mlp.linear_fc2": ("model.layers.{i}.mlp.down_proj",),
}

ARCHITECTURES: dict[Architecture, Names] = {
    "qwen2": Names("Qwen2ForCausalLM", "qwen2", frozenset({"linear_qkv"})),
    "bielik": Names("LlamaForCausalLM", "llama", frozenset({"linear_qkv", "linear_proj", "linear_fc1", "linear_fc2"})),
}


def mappings(shape: ModelShape) -> Iterator[Mapping]:
    """Every tensor of a model, in the order of the forward pass: one mapping at a time is what conversion holds."""
    names = ARCHITECTURES[shape.architecture]
    vocabulary = (shape.vocab_size, shape.hidden_size)
    yield _same("embedding.word_embeddings.weight", _TOP["embedding.word_embeddings.weight"], vocabulary)
    for layer in range(shape.num_layers):
        for ours, theirs in _NORMS.items():
            yield _same(ours.format(i=layer), theirs.format(i=layer), (shape.hidden_size,))
        for ours, parts in _LINEARS.items():
            linear = ours.rsplit(".", 1)[-1]
            yield _linear(shape, ours.format(i=layer), [part.format(i=layer) for part in parts], linear, "weight")
            if linear in names.biased:
                yield _linear(shape, ours.format(i=layer), [part.format(i=layer) for part in parts], linear, "bias")
    yield _same("decoder.final_layernorm.weight", _TOP["decoder.final_layernorm.weight"], (shape.hidden_size,))
    if not shape.tie_embeddings:
        yield _same("output_layer.weight", _TOP["output_layer.weight"], vocabulary)


def merge_qkv(parts: Tensors, groups: int) -> torch.Tensor:
    """q [heads * d, ...], k and v [groups * d, ...] -> [groups * (heads / groups + 2) * d, ...]: each group's queries,
    then its key, then its value, so that tensor-parallel ranks cut between groups."""
    rows = [part.unflatten(0, (groups, -1)) for part in parts]
    return torch.cat(rows, dim=1).flatten(0, 1)


def split_qkv(merged: torch.Tensor, groups: int, query_heads: int) -> list[torch.Tensor]:
    """The inverse of merge_qkv."""
    rows = merged.unflatten(0, (groups, -1))
    dim = rows.size(1) // (query_heads // groups + 2)
    return [part.flatten(0, 1) for part in rows.split([query_heads // groups * dim, dim, dim], dim=1)]


def _same(ours: str, theirs: str, size: tuple[int, ...]) -> Mapping:
    return Mapping(ours, (theirs,), size, (size,), lambda parts: parts[0], lambda tensor: [tensor])


def _linear(shape: ModelShape, ours: str, theirs: list[str], linear: str, kind: str) -> Mapping:
    h, f, q, kv = shape.hidden_size, shape.ffn_hidden_size, shape.query_size, shape.kv_size
    outputs, inputs = {
        "linear_qkv": ([q, kv, kv], h),
        "linear_proj": ([h], q),
        "linear_fc1": ([f, f], h),
        "linear_fc2": ([h], f),
    }[linear]
    tail = (inputs,) if kind == "weight" else ()
    merge: Callable[[Tensors], torch.Tensor] = torch.cat
    split: Callable[[torch.Tensor], Tensors] = partial(torch.split, split_size_or_sections=outputs)
    if linear == "linear_qkv":
        merge = partial(merge_qkv, groups=shape.num_query_groups)
        split = partial(split_qkv, groups=shape.num_query_groups, query_heads=shape.num_attention_heads)
    return Mapping(
        f"{ours}.{kind}",
        tuple(f"{name}.{kind}" for name in theirs),
        (sum(outputs), *tail),
        tuple((rows, *tail) for rows in outputs),
        merge,
        split,
    )
