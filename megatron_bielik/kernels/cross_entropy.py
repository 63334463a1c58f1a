"""Cross-entropy over a vocabulary split across the tensor-parallel ranks, fp32 inside, padded columns left out.

loss_t = log sum_v exp(z_tv) - z_t,label. Forward reduces the maximum, the sum of exponentials and the label's logit over
the group; backward is softmax minus one-hot, formed in fp32 before rounding to the logits' dtype.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist


def cross_entropy_reference(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The definition, on one rank: logits [tokens, vocabulary], labels [tokens] -> loss [tokens], fp32."""
    logits = logits.float()
    return logits.logsumexp(-1) - logits.gather(-1, labels[:, None])[:, 0]


class _VocabParallelCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: torch.Tensor,
        labels: torch.Tensor,
        first_row: int,
        vocab_size: int,
        group: dist.ProcessGroup | None,
    ) -> torch.Tensor:
        parallel = group is not None and dist.get_world_size(group) > 1
        # One fp32 copy, always of our own: it becomes the exponentials and then the softmax in place.
        values = logits.to(torch.float32, copy=True)
        real = max(0, min(logits.size(-1), vocab_size - first_row))  # columns of this rank that are no padding
        values[:, real:] = -torch.inf
        top = values.max(dim=-1).values
        if parallel:
            dist.all_reduce(top, op=dist.ReduceOp.MAX, group=group)
        values.sub_(top[:, None])  # from here on relative to the maximum
        local = labels - first_row
        mine = (local >= 0) & (local < logits.size(-1))
        local = local.clamp(0, logits.size(-1) - 1)
        picked = torch.where(mine, values.gather(-1, local[:, None])[:, 0], 0.0)
        exponentials = values.exp_()
        reduced = torch.stack((exponentials.sum(-1), picked))
        if parallel:
            dist.all_reduce(reduced, group=group)
        total, picked = reduced[0], reduced[1]
        ctx.save_for_backward(exponentials.div_(total[:, None]), local, mine)
        ctx.dtype = logits.dtype
        return total.log() - picked

    @staticmethod
    def backward(ctx: Any, grad_loss: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        softmax, local, mine = ctx.saved_tensors
        grad = softmax  # kept for this one use: written in place
        grad.scatter_add_(-1, local[:, None], -mine.to(grad.dtype)[:, None])
        grad.mul_(grad_loss.float()[:, None])
        return grad.to(ctx.dtype), None, None, None, None


def vocab_parallel_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, first_row: int, vocab_size: int, group: dist.ProcessGroup | None
) -> torch.Tensor:
    """Loss per token.

    Args:
        logits: [tokens, vocabulary / tp], this rank's columns, padding included.
        labels: [tokens], ids in the whole vocabulary, below vocab_size.
        first_row: Id of this rank's first column.
        vocab_size: Real vocabulary; columns from there on have probability zero.
        group: Tensor-parallel group, or none for one rank.

    Returns:
        [tokens], fp32.
    """
    return _VocabParallelCrossEntropy.apply(logits, labels, first_row, vocab_size, group)
