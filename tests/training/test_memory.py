"""The activation terms against what autograd really keeps, and the schedules against a simulation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from megatron_bielik.config import Config, DataConfig, ModelConfig, ParallelConfig, TrainingConfig
from megatron_bielik.kernels.rms_norm import rms_norm
from megatron_bielik.kernels.rope import apply_rope, rope_cos_sin
from megatron_bielik.kernels.swiglu import swiglu
from megatron_bielik.presets import PRESETS, ModelShape
from megatron_bielik.training.memory import layer_activations, layers_in_flight, stage_layers, stage_memory
from megatron_bielik.training.parameter_table import parameter_table

TOKENS = 64


class Bytes:
    """Sums the distinct storages that autograd keeps, parameters and the constant rotation left out."""

    def __init__(self, leave_out: list[torch.Tensor]) -> None:
        self._known = {tensor.untyped_storage().data_ptr() for tensor in leave_out}
        self._alive: list[torch.Tensor] = []  # an address must not be used again while we count
        self.total = 0

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._known:
            self._known.add(storage.data_ptr())
            self._alive.append(tensor)
            self.total += storage.nbytes()
        return tensor


def one_layer(
    shape: ModelShape, x: torch.Tensor, weights: dict[str, torch.Tensor], cos: torch.Tensor, sin: torch.Tensor
) -> torch.Tensor:
    """The decoder layer of model/, one document: x [tokens, hidden] -> [tokens, hidden]."""
    heads, groups, dim = shape.num_attention_heads, shape.num_query_groups, shape.head_dim
    qkv = torch.nn.functional.linear(rms_norm(x, weights["norm1"], 1e-6), weights["qkv"]) + weights["qkv_bias"]
    q, k, v = qkv.view(len(x), heads + 2 * groups, dim).split([heads, groups, groups], dim=1)
    q, k = apply_rope(q, cos, sin), apply_rope(k, cos, sin)
    q, k, v = (t.transpose(0, 1).unsqueeze(0) for t in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    context = torch.cat([out.squeeze(0).transpose(0, 1)]).reshape(len(x), -1)
    x = x + (torch.nn.functional.linear(context, weights["proj"]) + weights["proj_bias"])
    gate_up = torch.nn.functional.linear(rms_norm(x, weights["norm2"], 1e-6), weights["fc1"])
    return x + (torch.nn.functional.linear(swiglu(gate_up, weights["fc1_bias"]), weights["fc2"]) + weights["fc2_bias"])


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_layer_against_autograd(precision: str, dtype: torch.dtype) -> None:
    shape = PRESETS["tiny"]
    h, f, q, qkv = shape.hidden_size, shape.ffn_hidden_size, shape.query_size, shape.query_size + 2 * shape.kv_size
    sizes = {"norm1": (h,), "qkv": (qkv, h), "qkv_bias": (qkv,), "proj": (h, q), "proj_bias": (h,), "norm2": (h,),
             "fc1": (2 * f, h), "fc1_bias": (2 * f,), "fc2": (h, f), "fc2_bias": (h,)}  # fmt: skip
    weights = {name: torch.full(size, 0.01, dtype=dtype, requires_grad=True) for name, size in sizes.items()}
    cos, sin = rope_cos_sin(torch.arange(TOKENS), shape.head_dim, shape.rope_theta, dtype)
    x = torch.randn(TOKENS, h).to(dtype).requires_grad_()
    kept = Bytes([*weights.values(), cos, sin])
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
        one_layer(shape, x, weights, cos, sin)
    config = Config(
        data=DataConfig(sequence_length=TOKENS),
        training=TrainingConfig(precision=precision),  # type: ignore[arg-type]
    )
    estimate = layer_activations(config).everything
    # Not counted: two numbers per token and norm.
    assert estimate == pytest.approx(kept.total, rel=0.01)


def simulated_layers_in_flight(pipeline: int, virtual: int, layers: int, micro_batches: int, stage: int) -> int:
    """Walks through megatron-core's order: warm-up forward passes, then one forward and one backward at a time."""
    total = micro_batches * virtual
    if virtual == 1:
        warm_up = pipeline - stage - 1
    else:
        warm_up = (pipeline - stage - 1) * 2 + (virtual - 1) * pipeline
    held = most = 0
    for step in range(total + min(warm_up, total)):
        if step < total:
            held += 1
            most = max(most, held)
        if step >= min(warm_up, total):
            held -= 1
    assert held == 0
    return most * layers // (pipeline * virtual)


@pytest.mark.parametrize(("pipeline", "virtual"), [(1, 1), (2, 1), (4, 1), (8, 1), (2, 2), (4, 2), (8, 2), (4, 3)])
@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_layers_in_flight(pipeline: int, virtual: int, rounds: int) -> None:
    layers, micro_batches = pipeline * virtual * 2, pipeline * rounds
    for stage in range(pipeline):
        expected = simulated_layers_in_flight(pipeline, virtual, layers, micro_batches, stage)
        assert layers_in_flight(stage, pipeline, virtual, layers, micro_batches) == expected


def test_interleaving_costs_the_published_factor() -> None:
    plain = layers_in_flight(0, 4, 1, 64, 100)
    assert layers_in_flight(0, 4, 2, 64, 100) == plain * (1 + 3 / (4 * 2))


def test_fewer_micro_batches_than_stages() -> None:
    assert layers_in_flight(0, 8, 1, 64, 3) == 3 * 8


def test_stage_layers_cover_the_model() -> None:
    assert stage_layers(1, 2, 2, 8) == (2, 3, 6, 7)
    assert sorted(n for stage in range(4) for n in stage_layers(stage, 4, 3, 24)) == list(range(24))


def test_tied_matrix_is_copied_to_the_last_stage() -> None:
    config = Config(model=ModelConfig(tie_embeddings=True), parallel=ParallelConfig(pipeline_parallel_size=2))
    shape = config.model.shape()
    table = parameter_table(shape)
    names = {parameter.name for parameter in table}
    stages = [stage_memory(config, stage, table, names, 1, 8) for stage in range(2)]
    total = sum(stage.stage_parameters for stage in stages)
    assert total == shape.num_parameters() + shape.vocab_size * shape.hidden_size
    alone = replace(config, parallel=ParallelConfig())
    assert stage_memory(alone, 0, table, names, 1, 8).stage_parameters == shape.num_parameters()


def test_more_tensor_parallel_ranks_than_groups() -> None:
    """Every rank then holds one whole key/value group."""
    config = Config(parallel=ParallelConfig(tensor_parallel_size=4), data=DataConfig(sequence_length=10))
    shape = PRESETS["tiny"]
    query, key = shape.query_size // 4, shape.head_dim
    assert layer_activations(config).attention_inputs == 10 * 2 * (query + 2 * key + query + key)
