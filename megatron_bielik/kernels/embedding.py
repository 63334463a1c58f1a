"""Gradient of an embedding, added in place in a fixed order: buffer[id] += sum of grad over the tokens with that id.

buffer: [rows, hidden] fp32; grad: [tokens, hidden]; ids: [tokens]. The ids are sorted, so that the tokens of a row stand
together and one program can sum them without atomics.
"""

from __future__ import annotations

import torch

from megatron_bielik.kernels.dispatch import tl, triton, use_kernels

ROWS, COLUMNS = 16, 256  # of a tile: 8 KiB of bf16 in flight, a row of it one access of a warp


def accumulate_embedding_gradient_reference(buffer: torch.Tensor, grad: torch.Tensor, ids: torch.Tensor) -> None:
    """The definition: see accumulate_embedding_gradient."""
    inside = (ids >= 0) & (ids < buffer.size(0))
    buffer.index_add_(0, ids[inside], grad[inside].to(buffer.dtype))


@triton.jit
def _accumulate(
    buffer_ptr: tl.tensor,
    grad_ptr: tl.tensor,
    ids_ptr: tl.tensor,
    order_ptr: tl.tensor,
    ends_ptr: tl.tensor,
    buffer_stride: tl.constexpr,
    grad_stride: tl.constexpr,
    hidden: tl.constexpr,
    block_rows: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Program (i, columns) sums the run that starts at sorted position i; where none starts, its end is 0."""
    blocks: tl.constexpr = (hidden + block - 1) // block
    first = tl.program_id(0) // blocks
    end = tl.load(ends_ptr + first)
    if end > 0:
        column = tl.program_id(0) % blocks * block + tl.arange(0, block)
        real = column < hidden
        total = tl.zeros((block_rows, block), buffer_ptr.dtype.element_ty)
        for start in range(first, end, block_rows):
            place = start + tl.arange(0, block_rows)
            token = tl.load(order_ptr + place, mask=place < end, other=0)
            at = grad_ptr + token[:, None] * grad_stride + column[None, :]
            total += tl.load(at, mask=(place < end)[:, None] & real[None, :], other=0).to(total.dtype)
        to = buffer_ptr + tl.load(ids_ptr + first) * buffer_stride + column
        tl.store(to, tl.load(to, mask=real, other=0) + tl.sum(total, axis=0), mask=real)


@torch.no_grad()
def accumulate_embedding_gradient(buffer: torch.Tensor, grad: torch.Tensor, ids: torch.Tensor) -> None:
    """Add the gradient of a lookup to the gradient of the matrix, in place; the same bits every time.

    Args:
        buffer: [rows, hidden], fp32 (or fp64), last dimension contiguous.
        grad: [tokens, hidden].
        ids: int64 [tokens], rows of the buffer; others are left out: they are rows of another rank.
    """
    if not use_kernels(grad):
        accumulate_embedding_gradient_reference(buffer, grad, ids)
        return
    tokens, hidden = grad.shape
    if tokens == 0:
        return
    grad = grad if grad.stride(-1) == 1 else grad.contiguous()
    found, order = torch.sort(ids, stable=True)
    starts = (found >= 0) & (found < buffer.size(0))
    starts[1:] &= found[1:] != found[:-1]
    ends = torch.where(starts, torch.searchsorted(found, found, right=True), 0).to(torch.int32)
    _accumulate[(tokens * triton.cdiv(hidden, COLUMNS),)](
        buffer, grad, found, order, ends, buffer.stride(0), grad.stride(0), hidden, ROWS, COLUMNS, num_warps=2
    )  # fmt: skip
