"""Output matrix and cross-entropy together, in chunks of tokens: loss = cross_entropy(hidden @ weight^T, labels).

hidden: [tokens, h], weight: [columns, h] -> [tokens]. Forward computes the logits chunk by chunk and keeps two numbers a row;
backward computes them again, turns each chunk into its gradient in place and multiplies that with weight and hidden. The trade:
chunk x columns logits are held instead of tokens x columns, for one more GEMM of 2 * h * columns FLOPs per token (about 1 % of
a step of 1.5B parameters).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist

from megatron_bielik.kernels.cross_entropy import (
    Targets,
    cross_entropy_reference,
    gradient_in_place,
    group_statistics,
    loss_of,
    rank_statistics,
)
from megatron_bielik.kernels.weight_gradient import accumulate_weight_gradient, mark_accumulated


def linear_cross_entropy_reference(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    loss_mask: torch.Tensor | None = None,
    z_loss: float = 0.0,
) -> torch.Tensor:
    """The definition, on one rank without padding, all logits at once."""
    return cross_entropy_reference(hidden @ weight.t(), labels, loss_mask, z_loss)


def _chunks(tokens: int, chunk: int) -> Iterator[slice]:
    """Stretches of at most `chunk` tokens, as even as can be."""
    count = max(1, -(-tokens // chunk))
    size = -(-tokens // count)
    for number in range(count):
        yield slice(number * size, (number + 1) * size)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        of: Targets,
        group: dist.ProcessGroup | None,
        chunk: int,
        main_grad: torch.Tensor | None,
    ) -> torch.Tensor:
        # No name for the logits: a chunk must be gone before the next is made.
        parts = [rank_statistics(hidden[rows] @ weight.t(), of[rows]) for rows in _chunks(len(hidden), chunk)]
        statistics = group_statistics(torch.cat(parts, 1), group)
        ctx.save_for_backward(hidden, weight, statistics[0])
        ctx.of, ctx.chunk, ctx.main_grad = of, chunk, main_grad
        return loss_of(statistics, of).to(torch.promote_types(hidden.dtype, torch.float32))

    @staticmethod
    def backward(ctx: Any, grad_loss: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, lse = ctx.saved_tensors
        wants_hidden, wants_weight, *_ = ctx.needs_input_grad
        d_hidden = torch.empty(hidden.shape, dtype=hidden.dtype, device=hidden.device) if wants_hidden else None
        d_weight = ctx.main_grad if wants_weight else None
        if wants_weight and d_weight is None:
            wide = torch.promote_types(weight.dtype, torch.float32)
            d_weight = torch.zeros(weight.shape, dtype=wide, device=weight.device)
        for rows in _chunks(len(hidden), ctx.chunk):
            _backward_chunk(hidden[rows], weight, lse[rows], grad_loss[rows], ctx.of[rows], d_hidden, d_weight, rows)
        if wants_weight and ctx.main_grad is not None:
            # megatron-core's parameters have the mark; any other weight has no gradient besides main_grad.
            d_weight = mark_accumulated(weight) if hasattr(weight, "grad_added_to_main_grad") else None
        elif d_weight is not None:
            d_weight = d_weight.to(weight.dtype)
        return d_hidden, d_weight, None, None, None, None


def _backward_chunk(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    lse: torch.Tensor,
    grad_loss: torch.Tensor,
    of: Targets,
    d_hidden: torch.Tensor | None,
    d_weight: torch.Tensor | None,
    rows: slice,
) -> None:
    """The logits of one chunk and their gradient, from there d_hidden[rows] and what is added to d_weight."""
    d_logits = gradient_in_place(hidden @ weight.t(), lse, grad_loss, of)
    if d_hidden is not None:
        torch.mm(d_logits, weight, out=d_hidden[rows])
    if d_weight is not None:
        accumulate_weight_gradient(d_weight, hidden, d_logits)


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    first_row: int,
    vocab_size: int,
    group: dist.ProcessGroup | None,
    loss_mask: torch.Tensor | None = None,
    z_loss: float = 0.0,
    chunk: int = 8192,
    main_grad: torch.Tensor | None = None,
) -> torch.Tensor:
    """Loss per token.

    Args:
        hidden: [tokens, h], the same on all ranks of the group. Its gradient is this rank's part of the sum over the ranks.
        weight: [vocabulary / tp, h], this rank's rows, padding included.
        labels: [tokens], ids in the whole vocabulary, below vocab_size.
        first_row: Id of this rank's first row of weight.
        vocab_size: Real vocabulary; rows from there on have probability zero.
        group: Tensor-parallel group, or none for one rank.
        loss_mask: [tokens] or none: tokens where it is 0 have loss and gradient 0.
        z_loss: Weight of the squared log-sum-exp, which is added to each counted token's loss.
        chunk: Tokens whose logits exist at once, at most.
        main_grad: fp32 [vocabulary / tp, h] or none. Where it is given, the weight's gradient is added to it and autograd
            gets none; otherwise the gradient is summed over the chunks in fp32 and rounded once.

    Returns:
        [tokens], fp32 (fp64 for fp64 input).
    """
    of = Targets(labels, first_row, vocab_size, loss_mask, z_loss)
    return _LinearCrossEntropy.apply(hidden, weight, of, group, chunk, main_grad)
