"""Cross-entropy over a vocabulary split across the tensor-parallel ranks, fp32 inside, padded columns left out.

loss_t = lse_t - z_t,label + z_loss * lse_t^2 with lse_t = log sum_v exp(z_tv); z: logits [tokens, vocabulary / tp] -> [tokens].
Forward reads the logits once and keeps two numbers a row, which the ranks exchange in one all-gather; backward is
softmax * (1 + 2 * z_loss * lse) minus one-hot, formed in fp32 before rounding to the logits' dtype. On a GPU backward writes
it over the logits: 6 bytes per bf16 logit in all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist

from megatron_bielik.kernels.dispatch import accumulate_type, tl, triton, use_kernels, widened

FORWARD_BLOCK, BACKWARD_BLOCK = (
    8192,
    4096,
)  # columns at a time, of 256 threads: 80 and 32 KiB of a multiprocessor in flight


@dataclass(frozen=True)
class Targets:
    """What the logits of some tokens are compared with.

    Args:
        labels: int [tokens], ids in the whole vocabulary. The loss is inf where a counted one is outside of it.
        first_row: Id of this rank's first column.
        vocab_size: Real vocabulary; columns from there on have probability zero.
        loss_mask: [tokens] or none. Where it is 0, loss and gradient are exactly 0 and neither logits nor label are looked at.
        z_loss: Weight of the squared log-sum-exp.
    """

    labels: torch.Tensor
    first_row: int
    vocab_size: int
    loss_mask: torch.Tensor | None = None
    z_loss: float = 0.0

    def __getitem__(self, rows: slice) -> Targets:
        """The same for some of the tokens."""
        mask = None if self.loss_mask is None else self.loss_mask[rows]
        return replace(self, labels=self.labels[rows], loss_mask=mask)

    def real_columns(self, logits: torch.Tensor) -> int:
        """How many of this rank's columns are no padding."""
        return max(0, min(logits.size(-1), self.vocab_size - self.first_row))


def cross_entropy_reference(
    logits: torch.Tensor, labels: torch.Tensor, loss_mask: torch.Tensor | None = None, z_loss: float = 0.0
) -> torch.Tensor:
    """The definition, on one rank without padding: logits [tokens, vocabulary], labels [tokens] -> loss [tokens], fp32."""
    logits = widened(logits)
    if loss_mask is not None:
        logits, labels = logits.masked_fill((loss_mask == 0)[:, None], 0), labels.masked_fill(loss_mask == 0, 0)
    lse = logits.logsumexp(-1)
    loss = lse - logits.gather(-1, labels[:, None])[:, 0] + z_loss * lse.square()
    return loss if loss_mask is None else loss.masked_fill(loss_mask == 0, 0)


def _statistics_reference(logits: torch.Tensor, of: Targets) -> torch.Tensor:
    real = of.real_columns(logits)
    # One copy, always of our own: it becomes the exponentials.
    values = logits.to(torch.promote_types(logits.dtype, torch.float32), copy=True)
    values[:, real:] = -torch.inf
    local = of.labels - of.first_row
    if of.loss_mask is not None:
        values.masked_fill_((of.loss_mask == 0)[:, None], 0)
    mine = (local >= 0) & (local < real)
    picked = values.gather(-1, local.clamp(0, values.size(-1) - 1)[:, None])[:, 0]
    top = values.amax(-1).clamp_min(
        torch.finfo(torch.float32).min
    )  # -inf where all is padding: -inf - -inf is no number
    total = values.sub_(top[:, None]).exp_().sum(-1)
    return torch.stack((total.log().double() + top, torch.where(mine, picked, -torch.inf).double()))


@triton.jit
def _cross_entropy_forward(
    logits_ptr: tl.tensor,
    labels_ptr: tl.tensor,
    mask_ptr: tl.tensor | None,
    statistics_ptr: tl.tensor,
    tokens: int,
    stride: int,
    columns: int,
    real: int,
    first_row: int,
    accumulate: tl.constexpr,
    block: tl.constexpr,
) -> None:
    row = tl.program_id(0)
    lse = tl.full((), 0.0, tl.float64)
    target = lse
    counted = True
    if mask_ptr is not None:
        counted = tl.load(mask_ptr + row) != 0
    if counted:
        logits_ptr += row.to(tl.int64) * stride
        label = tl.load(labels_ptr + row) - first_row
        target = tl.load(logits_ptr + label, mask=(label >= 0) & (label < real), other=float("-inf")).to(tl.float64)
        # A maximum and a sum for every 8 lanes, which one thread holds: the loop has no reduction over the program and few
        # registers. The first maximum is not -inf: a rank may have padding only.
        lanes = tl.arange(0, block // 8)[:, None] * 8 + tl.arange(0, 8)[None, :]
        top = tl.full((block // 8,), -3.4028234663852886e38, accumulate)
        sums = tl.full((block // 8,), 0.0, accumulate)
        for start in range(0, columns, block):
            column = start + lanes
            # Masked by columns, not by real: the former is a multiple of 16, which keeps the loads wide.
            z = tl.load(logits_ptr + column, mask=column < columns, other=float("-inf")).to(accumulate)
            z = tl.where(column < real, z, float("-inf"))
            higher = tl.maximum(top, tl.max(z, 1))
            sums = sums * tl.exp(top - higher) + tl.sum(tl.exp(z - higher[:, None]), 1)
            top = higher
        highest = tl.max(top, 0)
        total = tl.sum(sums * tl.exp(top - highest), 0)
        lse = highest.to(tl.float64) + tl.log(total).to(tl.float64)
    tl.store(statistics_ptr + row, lse)
    tl.store(statistics_ptr + tokens + row, target)


@triton.jit
def _cross_entropy_backward(
    logits_ptr: tl.tensor,
    labels_ptr: tl.tensor,
    mask_ptr: tl.tensor | None,
    lse_ptr: tl.tensor,
    grad_loss_ptr: tl.tensor,
    blocks: int,
    stride: int,
    columns: int,
    real: int,
    first_row: int,
    z_loss: tl.constexpr,
    accumulate: tl.constexpr,
    block: tl.constexpr,
) -> None:
    row = tl.program_id(0) // blocks
    column = tl.program_id(0) % blocks * block + tl.arange(0, block)
    place = logits_ptr + row.to(tl.int64) * stride + column
    counted = True
    if mask_ptr is not None:
        counted = tl.load(mask_ptr + row) != 0
    if counted:
        z = tl.load(place, mask=column < columns, other=0.0).to(accumulate)
        grad_loss = tl.load(grad_loss_ptr + row).to(accumulate)
        lse = tl.load(lse_ptr + row)
        high = lse.to(accumulate)
        low = (lse - high.to(tl.float64)).to(accumulate)
        gradient = tl.exp(z - high - low) * (grad_loss * (1.0 + 2.0 * z_loss * high))
        label = (tl.load(labels_ptr + row) - first_row).to(tl.int32)
        gradient -= tl.where(column == label, grad_loss, 0.0)
        tl.store(place, tl.where(column < real, gradient, 0.0), mask=column < columns)
    else:
        tl.store(place, tl.full((block,), 0.0, accumulate), mask=column < columns)


def rank_statistics(logits: torch.Tensor, of: Targets) -> torch.Tensor:
    """What a row's loss needs to know of this rank's columns.

    Args:
        logits: [tokens, columns].
        of: Their targets.

    Returns:
        [2, tokens], fp64, since the loss is a small difference of the two: log-sum-exp (-inf where all columns are padding) and
        the label's logit (-inf where the label is another rank's).
    """
    if not use_kernels(logits):
        return _statistics_reference(logits, of)
    logits = _rows(logits)
    tokens, columns = logits.shape
    statistics = torch.empty(2, tokens, dtype=torch.float64, device=logits.device)
    if tokens:
        _cross_entropy_forward[(tokens,)](
            logits, of.labels.contiguous(), _contiguous(of.loss_mask), statistics, tokens, logits.stride(0), columns,
            of.real_columns(logits), of.first_row, accumulate_type(logits), _block(columns, FORWARD_BLOCK), num_warps=8,
        )  # fmt: skip
    return statistics


def group_statistics(statistics: torch.Tensor, group: dist.ProcessGroup | None) -> torch.Tensor:
    """The same over the columns of all ranks, [2, tokens]: one all-gather, combined in the order of the ranks."""
    ranks = 1 if group is None else dist.get_world_size(group)
    if ranks == 1:
        return statistics
    gathered = torch.empty(ranks * 2, statistics.size(1), dtype=statistics.dtype, device=statistics.device)
    dist.all_gather_into_tensor(gathered, statistics, group=group)
    lse, target = gathered.view(ranks, 2, -1).unbind(1)
    return torch.stack((lse.logsumexp(0), target.amax(0)))


def loss_of(statistics: torch.Tensor, of: Targets) -> torch.Tensor:
    """Loss [tokens], fp64, of the group's statistics."""
    lse, target = statistics
    loss = lse - target
    if of.z_loss:
        loss = loss + of.z_loss * lse.square()
    return loss if of.loss_mask is None else loss.masked_fill(of.loss_mask == 0, 0)


def gradient_in_place(logits: torch.Tensor, lse: torch.Tensor, grad_loss: torch.Tensor, of: Targets) -> torch.Tensor:
    """Write the gradient over the logits.

    Args:
        logits: [tokens, columns], the last dimension without gaps.
        lse: [tokens], fp64, over the columns of all ranks.
        grad_loss: [tokens].
        of: Their targets.

    Returns:
        logits.
    """
    tokens, columns = logits.shape
    if not use_kernels(logits):
        return _gradient_reference(logits, lse, grad_loss, of)
    if tokens:
        block = _block(columns, BACKWARD_BLOCK)
        blocks = triton.cdiv(columns, block)
        _cross_entropy_backward[(tokens * blocks,)](
            logits, of.labels.contiguous(), _contiguous(of.loss_mask), lse, grad_loss.contiguous(), blocks, logits.stride(0),
            columns, of.real_columns(logits), of.first_row, of.z_loss, accumulate_type(logits), block, num_warps=8,
        )  # fmt: skip
    return logits


def _gradient_reference(logits: torch.Tensor, lse: torch.Tensor, grad_loss: torch.Tensor, of: Targets) -> torch.Tensor:
    real, values = of.real_columns(logits), widened(logits)  # fp32 logits themselves, or a copy
    grad_loss = grad_loss.to(values.dtype)
    local = of.labels - of.first_row
    mine = (local >= 0) & (local < real)
    if of.loss_mask is not None:
        masked = of.loss_mask == 0
        values.masked_fill_(masked[:, None], 0)
        lse, grad_loss = lse.masked_fill(masked, 0), grad_loss.masked_fill(masked, 0)
    high = lse.to(values.dtype)
    values.sub_(high[:, None]).sub_((lse - high).to(values.dtype)[:, None]).exp_()
    values.mul_((grad_loss * (1 + 2 * of.z_loss * high))[:, None])
    values[:, real:] = 0
    values.scatter_add_(-1, local.clamp(0, values.size(-1) - 1)[:, None], torch.where(mine, -grad_loss, 0)[:, None])
    return logits.copy_(values)


def _rows(logits: torch.Tensor) -> torch.Tensor:
    return logits if logits.stride(-1) == 1 or logits.size(-1) == 1 else logits.contiguous()


def _contiguous(x: torch.Tensor | None) -> torch.Tensor | None:
    return None if x is None else x.contiguous()


def _block(columns: int, most: int) -> int:
    return min(most, max(16, triton.next_power_of_2(columns)))


class _VocabParallelCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, of: Targets, group: dist.ProcessGroup | None) -> torch.Tensor:
        ctx.overwrite = use_kernels(logits)
        logits = _rows(logits)
        statistics = group_statistics(rank_statistics(logits, of), group)
        ctx.save_for_backward(logits, statistics[0])
        ctx.of = of
        return loss_of(statistics, of).to(torch.promote_types(logits.dtype, torch.float32))

    @staticmethod
    def backward(ctx: Any, grad_loss: torch.Tensor) -> tuple[torch.Tensor | None, None, None]:
        if ctx.of is None:
            raise RuntimeError(
                "a second backward pass through the cross-entropy, whose logits the first has overwritten"
            )
        (logits, lse), of = ctx.saved_tensors, ctx.of
        logits = logits.detach()
        if ctx.overwrite:
            ctx.of = None
        else:
            logits = logits.clone()
        return gradient_in_place(logits, lse, grad_loss, of), None, None


def vocab_parallel_cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    first_row: int,
    vocab_size: int,
    group: dist.ProcessGroup | None,
    loss_mask: torch.Tensor | None = None,
    z_loss: float = 0.0,
) -> torch.Tensor:
    """Loss per token. On a GPU the backward pass overwrites the logits with their gradient: nothing else may need them.

    Args:
        logits: [tokens, vocabulary / tp], this rank's columns, padding included.
        labels: [tokens], ids in the whole vocabulary, below vocab_size.
        first_row: Id of this rank's first column.
        vocab_size: Real vocabulary; columns from there on have probability zero.
        group: Tensor-parallel group, or none for one rank.
        loss_mask: [tokens] or none: tokens where it is 0 have loss and gradient 0, whatever their logits and labels are.
        z_loss: Weight of the squared log-sum-exp, which is added to each counted token's loss.

    Returns:
        [tokens], fp32 (fp64 for fp64 logits).
    """
    return _VocabParallelCrossEntropy.apply(logits, Targets(labels, first_row, vocab_size, loss_mask, z_loss), group)
