"""The activation terms against what autograd really keeps, and the schedules against a simulation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

import pytest
import torch

from megatron_bielik.config import Config, DataConfig, ModelConfig, ParallelConfig, TrainingConfig
from megatron_bielik.kernels.dispatch import forced_kernels
from megatron_bielik.presets import PRESETS
from megatron_bielik.training.memory import layer_activations, layers_in_flight, stage_layers, stage_memory
from megatron_bielik.training.parameter_table import parameter_table

TOKENS = 64


class Kept:
    """The distinct storages that autograd keeps, parameters left out."""

    def __init__(self, leave_out: Iterable[torch.Tensor]) -> None:
        # By the storage itself: what is freed to be recomputed leaves its address to others.
        self._known = {tensor.untyped_storage()._cdata for tensor in leave_out}
        self._alive: list[torch.Tensor] = []

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in self._known:
            self._known.add(storage)
            self._alive.append(tensor)
        return tensor

    def total(self) -> int:
        """Bytes still held: what was freed to be recomputed counts nothing."""
        return sum(tensor.untyped_storage().nbytes() for tensor in self._alive)


def bytes_kept(config: Config) -> int:
    """Of the forward pass of the model with this package's kernels, as on a GPU, through Triton's interpreter."""
    from megatron_bielik.model.gpt import build_model, document_parameters
    from megatron_bielik.model.initialization import initialize

    (model,) = build_model(config)
    initialize([model], config)
    positions = torch.arange(TOKENS)
    documents = document_parameters(config, torch.tensor([0, TOKENS], dtype=torch.int32), positions)
    ids = torch.ones(1, TOKENS, dtype=torch.int64)
    kept = Kept(model.parameters())
    with forced_kernels(), torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
        loss = model.train()(ids, positions[None], None, labels=ids, packed_seq_params=documents)
    assert loss.requires_grad
    return kept.total()


@pytest.mark.usefixtures("single_process")
@pytest.mark.parametrize("recompute", ["none", "selective"])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_layer_against_autograd(
    precision: Literal["bf16", "fp32"], groups: int, recompute: Literal["none", "selective"]
) -> None:
    """A layer more keeps what the plan says, and exactly that."""
    one = Config(
        model=ModelConfig(
            preset="tiny", architecture="bielik", num_layers=1, hidden_size=64, ffn_hidden_size=96, head_dim=16,
            num_attention_heads=4, num_query_groups=groups, vocab_size=100,
        ),
        parallel=ParallelConfig(recompute=recompute),
        data=DataConfig(sequence_length=TOKENS),
        training=TrainingConfig(precision=precision),
    )  # fmt: skip
    two = replace(one, model=replace(one.model, num_layers=2))
    assert layer_activations(one).kept(recompute) == bytes_kept(two) - bytes_kept(one)


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
    whole_group = shape.query_size // shape.num_query_groups + 2 * key  # gathered, queries of other ranks among them
    heads = shape.num_attention_heads // 4
    assert layer_activations(config).attention == 10 * (2 * (whole_group + query) + 4 * heads)
