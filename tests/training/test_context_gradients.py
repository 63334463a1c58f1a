"""Loss and every gradient of one micro-batch under context parallelism against the same rank with the whole row."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist

LENGTHS = {"packed": (1, 20, 43), "whole": (64,)}


@pytest.mark.distributed
@pytest.mark.parametrize("tensor", [1, 2])
def test_against_the_whole_row(tensor: int, run: Callable[..., object]) -> None:
    run(["-m", "tests.training.test_context_gradients", str(tensor)], processes=2 * tensor)


def compare(tensor: int) -> None:
    """On every rank: this model with its pieces, gradients summed over the context group, and with the whole row."""
    from megatron.core import parallel_state

    from megatron_bielik.config import Config, ModelConfig, ParallelConfig, TrainingConfig
    from megatron_bielik.model.context_parallel import take_pieces
    from megatron_bielik.model.gpt import build_model, document_parameters
    from megatron_bielik.model.initialization import initialize
    from megatron_bielik.parallel import runtime
    from megatron_bielik.training.optimizer import wrap_for_training

    parallel = ParallelConfig(
        tensor_parallel_size=tensor, context_parallel_size=2, sequence_parallel=tensor > 1, overlap_grad_reduce=False
    )
    here = runtime.start(parallel, seed=1)
    config = Config(
        model=ModelConfig(num_layers=2, vocab_size=250), parallel=parallel, training=TrainingConfig(precision="fp32")
    )
    rank = parallel_state.get_context_parallel_rank()
    group = parallel_state.get_context_parallel_group()

    def run_model(
        config: Config, ids: torch.Tensor, positions: torch.Tensor, lengths: tuple[int, ...]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        (model,) = build_model(config)
        initialize([model], config)
        (wrapped,) = wrap_for_training([model], config.parallel)
        wrapped.zero_grad_buffer()
        bounds = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        documents = document_parameters(config, bounds, positions)
        labels = (ids * 7 + 3) % 250
        loss = model(ids[None], positions[None], None, labels=labels[None], packed_seq_params=documents)[0]
        loss.sum().backward()
        for parameter in model.parameters():
            if getattr(parameter, "sequence_parallel", False):  # each tensor-parallel rank saw other tokens
                dist.all_reduce(parameter.main_grad, group=parallel_state.get_tensor_model_parallel_group())
        return loss.detach(), {name: p.main_grad.clone() for name, p in model.global_names()}

    for lengths in LENGTHS.values():
        ids = torch.randint(250, (64,), generator=torch.Generator().manual_seed(5))
        positions = torch.cat([torch.arange(length) for length in lengths])
        alone = replace(config, parallel=replace(parallel, context_parallel_size=1))
        wanted, gradients = run_model(alone, ids, positions, lengths)
        found, own = run_model(config, take_pieces(ids, rank, 2), take_pieces(positions, rank, 2), lengths)
        torch.testing.assert_close(found, take_pieces(wanted, rank, 2), atol=1e-5, rtol=1e-5)
        for name, gradient in own.items():
            dist.all_reduce(gradient, group=group)
            error = (gradient - gradients[name]).abs().max() / gradients[name].abs().max()
            assert error <= 1e-5, f"{name}: {error:.1e} of the largest element"
    assert here.world_size == 2 * tensor
    runtime.stop()


if __name__ == "__main__":
    sys.exit(compare(int(sys.argv[1])))
