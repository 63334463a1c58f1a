"""One training step and one evaluation, as algorithms over micro-batches."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.pipeline_parallel import get_forward_backward_func

from megatron_bielik.config import Config
from megatron_bielik.data.batches import Batch
from megatron_bielik.model.context_parallel import take_pieces
from megatron_bielik.model.gpt import document_parameters
from megatron_bielik.parallel.runtime import Runtime
from megatron_bielik.training.optimizer import Update, global_gradient_norm


@dataclass(frozen=True)
class StepResult:
    """What one step measured, the same on every rank.

    Args:
        loss: Mean over the global batch's counted tokens.
        grad_norm: Before clipping.
        counted_tokens: Tokens with a loss.
        updated: False where a NaN or infinite loss or gradient kept the weights as they were.
        stop: Largest stop request of any rank, 0 for none.
        rank_seconds: Host time of each rank inside its forward passes but the first of each model chunk, which may wait for
            other ranks' weights (overlap_param_gather); waits inside its tensor-parallel group are included. Zeros where a
            step has one micro-batch.
    """

    loss: float
    grad_norm: float
    counted_tokens: int
    updated: bool
    stop: int = 0
    rank_seconds: tuple[float, ...] = ()


class _Stopwatch:
    """Host seconds inside with-blocks, added up."""

    def __init__(self) -> None:
        self.seconds = self._since = 0.0

    def __enter__(self) -> None:
        self._since = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.seconds += time.perf_counter() - self._since


def train_step(
    wrapped: Sequence[DistributedDataParallel],
    optimizer: MegatronOptimizer,
    update: Update,
    batches: Sequence[Batch],
    config: Config,
    runtime: Runtime,
    stop_request: int = 0,
) -> StepResult:
    """Forward and backward over all micro-batches, then one update, unless loss or gradients are not finite.

    The loss is the sum over counted tokens of the global batch divided by their number, whatever the layout.
    """
    for chunk in wrapped:
        chunk.train()
        chunk.zero_grad_buffer()
    optimizer.zero_grad()
    forward = _Stopwatch()
    sums = _forward_backward(wrapped, batches, config, runtime, forward, forward_only=False)
    optimizer.prepare_grads()
    stops = torch.zeros(8, dtype=torch.float64, device=runtime.device)
    stops[stop_request] = 1
    seconds = torch.zeros(runtime.world_size, dtype=torch.float64, device=runtime.device)
    seconds[runtime.rank] = forward.seconds
    reduced = torch.cat((sums, stops, seconds))
    dist.all_reduce(reduced)
    loss, tokens = reduced[0] / reduced[1].clamp(min=1), reduced[1].clamp(min=1)
    norm = global_gradient_norm(optimizer) / tokens
    update(_gradient_scale(loss, norm, tokens, config.optimizer.clip_grad))
    # The one wait for the device in a step, behind everything that it has to do.
    mean_loss, grad_norm, counted, *others = torch.cat((torch.stack((loss, norm)), reduced[1:])).tolist()
    wanted, rank_seconds = others[: len(stops)], tuple(others[len(stops) :])
    finite = math.isfinite(mean_loss) and math.isfinite(grad_norm)
    if finite:
        update.made()
    stop = max((code for code, count in enumerate(wanted) if count), default=0)
    return StepResult(mean_loss, grad_norm, int(counted) if math.isfinite(counted) else 0, finite, stop, rank_seconds)


def _gradient_scale(loss: torch.Tensor, norm: torch.Tensor, tokens: torch.Tensor, limit: float) -> torch.Tensor:
    """What gradient sums are multiplied by, fp32 on the device: one over the tokens, times limit / norm where the norm is larger
    (limit 0: never); NaN where loss or norm is not finite."""
    scale = 1 / tokens
    if limit > 0:
        scale = scale * (limit / (norm + 1e-6)).clamp(max=1.0)
    return torch.where(loss.isfinite() & norm.isfinite(), scale, torch.nan).float()


@torch.no_grad()
def evaluate(
    wrapped: Sequence[DistributedDataParallel], batches: Sequence[Batch], config: Config, runtime: Runtime
) -> tuple[float, int]:
    """Mean loss over the counted tokens of all ranks' batches, and their number."""
    for chunk in wrapped:
        chunk.eval()
    sums = _forward_backward(wrapped, batches, config, runtime, _Stopwatch(), forward_only=True)
    dist.all_reduce(sums)
    loss_sum, tokens = sums.tolist()
    return loss_sum / max(tokens, 1), int(tokens)


def _forward_backward(
    wrapped: Sequence[DistributedDataParallel],
    batches: Sequence[Batch],
    config: Config,
    runtime: Runtime,
    stopwatch: _Stopwatch,
    forward_only: bool,
) -> torch.Tensor:
    """Run the pipeline schedule. Returns this rank's share of [loss sum, counted tokens], float64; zeros but on one rank
    of the last stage's tensor-parallel group."""
    tokens = config.training.micro_batch_size * config.data.sequence_length
    begun: set[int] = set()

    def forward_step(iterator: Iterator[Batch], model: torch.nn.Module) -> tuple[torch.Tensor, Any]:
        batch = _own_tokens(next(iterator)).to(runtime.device)
        documents = document_parameters(config, batch.cu_seqlens, batch.positions[0])
        first = id(model) not in begun
        begun.add(id(model))
        with nullcontext() if first else stopwatch:
            output = model(
                batch.tokens, batch.positions, None,
                labels=batch.labels, packed_seq_params=documents, loss_mask=batch.loss_mask,
            )  # fmt: skip
        return output, partial(_loss, batch.loss_mask)

    outputs = get_forward_backward_func()(
        forward_step_func=forward_step,
        # Each model chunk of an interleaved schedule walks over the same micro-batches.
        data_iterator=[iter(batches) for _ in wrapped] if len(wrapped) > 1 else iter(batches),
        model=list(wrapped),
        num_microbatches=len(batches),
        seq_length=tokens,  # micro-batches are one packed row
        micro_batch_size=1,
        forward_only=forward_only,
    )
    counts_here = bool(outputs) and parallel_state.get_tensor_model_parallel_rank() == 0
    if not counts_here:
        return torch.zeros(2, dtype=torch.float64, device=runtime.device)
    return torch.stack([output["sums"] for output in outputs]).sum(0)


def _own_tokens(batch: Batch) -> Batch:
    """The early and the late piece of the row that this context-parallel rank works on."""
    ranks = parallel_state.get_context_parallel_world_size()
    if ranks == 1:
        return batch
    rank = parallel_state.get_context_parallel_rank()
    return batch.per_token(lambda tensor: take_pieces(tensor, rank, ranks, dim=1))


def _loss(
    loss_mask: torch.Tensor, per_token: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """megatron-core's per-token convention: the sum, the number of tokens to divide by in the end, and what to report."""
    loss, tokens = (per_token * loss_mask).sum(), loss_mask.sum()
    return loss, tokens.int(), {"sums": torch.stack((loss.detach(), tokens)).double()}
