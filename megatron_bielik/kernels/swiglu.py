"""SwiGLU with bias: y = silu(g + b_g) * (u + b_u), gate and up read from one buffer (Shazeer, 2020).

x: [tokens, 2 * ffn], gate first -> [tokens, ffn]. Computed in fp32 and rounded once.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from megatron_bielik.kernels.dispatch import MULTIPROCESSORS, accumulate_type, tl, triton, use_kernels, widened
from megatron_bielik.kernels.rows import rows_of, sum_rows

# A warp's 32 accesses of 16 bytes in bf16; the widths 8960 and 11008 are multiples.
COLUMNS = 256
ROWS = 8  # of a tile


def swiglu_reference(x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """The definition: see swiglu."""
    wide = widened(x) if bias is None else widened(x) + widened(bias)
    gate, up = wide.chunk(2, dim=-1)
    return (F.silu(gate) * up).to(x.dtype)


@triton.jit
def _swiglu_forward(
    x_ptr: tl.tensor,
    bias_ptr: tl.tensor | None,
    y_ptr: tl.tensor,
    tokens: int,
    x_stride: tl.constexpr,
    ffn: tl.constexpr,
    accumulate: tl.constexpr,
    block_rows: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """One tile a program; several rows, so that the bias is not read as often as x."""
    blocks: tl.constexpr = (ffn + block - 1) // block
    column = tl.program_id(0) % blocks * block + tl.arange(0, block)
    row = (tl.program_id(0) // blocks * block_rows + tl.arange(0, block_rows)).to(tl.int64)[:, None]
    inside = (row < tokens) & (column < ffn)[None, :]
    at = x_ptr + row * x_stride + column[None, :]
    gate = tl.load(at, mask=inside, other=0).to(accumulate)
    up = tl.load(at + ffn, mask=inside, other=0).to(accumulate)
    if bias_ptr is not None:
        gate += tl.load(bias_ptr + column, mask=column < ffn, other=0).to(accumulate)[None, :]
        up += tl.load(bias_ptr + ffn + column, mask=column < ffn, other=0).to(accumulate)[None, :]
    tl.store(y_ptr + row * ffn + column[None, :], gate * tl.sigmoid(gate) * up, mask=inside)


@triton.jit
def _swiglu_backward(
    dy_ptr: tl.tensor,
    x_ptr: tl.tensor,
    bias_ptr: tl.tensor | None,
    dx_ptr: tl.tensor,
    partial_ptr: tl.tensor | None,
    tokens: int,
    dy_stride: tl.constexpr,
    x_stride: tl.constexpr,
    ffn: tl.constexpr,
    accumulate: tl.constexpr,
    block_rows: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """A program keeps its columns and walks down the rows; it leaves one row of partial sums of the bias gradient."""
    column = tl.program_id(0) * block + tl.arange(0, block)
    real = column < ffn
    if bias_ptr is not None:
        gate_bias = tl.load(bias_ptr + column, mask=real, other=0)
        up_bias = tl.load(bias_ptr + ffn + column, mask=real, other=0)
        dgate_sum = tl.zeros((block_rows, block), accumulate)
        dup_sum = tl.zeros((block_rows, block), accumulate)
    for first in range(tl.program_id(1) * block_rows, tokens, tl.num_programs(1) * block_rows):
        row = (first + tl.arange(0, block_rows)).to(tl.int64)[:, None]
        inside = (row < tokens) & real[None, :]
        at = x_ptr + row * x_stride + column[None, :]
        dy = tl.load(dy_ptr + row * dy_stride + column[None, :], mask=inside, other=0).to(accumulate)
        gate = tl.load(at, mask=inside, other=0).to(accumulate)
        up = tl.load(at + ffn, mask=inside, other=0).to(accumulate)
        if bias_ptr is not None:
            gate += gate_bias.to(accumulate)[None, :]
            up += up_bias.to(accumulate)[None, :]
        sigmoid = tl.sigmoid(gate)
        dgate = dy * up * sigmoid * (1 + gate * (1 - sigmoid))
        dup = dy * gate * sigmoid
        if bias_ptr is not None:  # rows beyond the last add dy = 0
            dgate_sum += dgate
            dup_sum += dup
        to = dx_ptr + row * (2 * ffn) + column[None, :]
        tl.store(to, dgate, mask=inside)
        tl.store(to + ffn, dup, mask=inside)
    if bias_ptr is not None:
        partial_ptr += tl.program_id(1) * (2 * ffn) + column
        tl.store(partial_ptr, tl.sum(dgate_sum, axis=0), mask=real)
        tl.store(partial_ptr + ffn, tl.sum(dup_sum, axis=0), mask=real)


def _forward(x: torch.Tensor, bias: torch.Tensor | None, y: torch.Tensor) -> None:
    """Launch the forward kernel; y is contiguous."""
    if y.numel() == 0:
        return
    x, ffn = rows_of(x), y.size(-1)
    grid = (triton.cdiv(x.size(0), ROWS) * triton.cdiv(ffn, COLUMNS),)
    _swiglu_forward[grid](
        x, bias, y, x.size(0), x.stride(0), ffn, accumulate_type(x), ROWS, COLUMNS, num_warps=4
    )  # fmt: skip


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        y = torch.empty(*x.shape[:-1], x.size(-1) // 2, dtype=x.dtype, device=x.device)
        _forward(x, bias, y)
        ctx.save_for_backward(x, bias)
        return y

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        x, bias = ctx.saved_tensors
        dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        if dx.numel() == 0:
            return dx, None if bias is None else torch.zeros_like(bias)
        dy, x, ffn = rows_of(dy), rows_of(x), x.size(-1) // 2
        blocks = triton.cdiv(ffn, COLUMNS)
        # One wave: as many programs as a multiprocessor's registers hold.
        resident = 8 if bias is None else 4
        chunks = min(triton.cdiv(x.size(0), ROWS), max(1, resident * MULTIPROCESSORS // blocks))
        wide = torch.promote_types(x.dtype, torch.float32)
        partial = None if bias is None else torch.empty(chunks, 2 * ffn, dtype=wide, device=x.device)
        _swiglu_backward[(blocks, chunks)](
            dy, x, bias, dx, partial, x.size(0), dy.stride(0), x.stride(0), ffn, accumulate_type(x), ROWS, COLUMNS,
            num_warps=4,
        )  # fmt: skip
        return dx, None if bias is None else sum_rows(partial, bias.dtype)


def swiglu(x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Gate the upper half of the last dimension by the SiLU of the lower.

    Args:
        x: [..., 2 * ffn], gate first.
        bias: [2 * ffn] or none.

    Returns:
        [..., ffn].
    """
    if use_kernels(x):
        return _SwiGLU.apply(x, bias)
    return swiglu_reference(x, bias)


@torch.no_grad()
def swiglu_into(out: torch.Tensor, x: torch.Tensor, bias: torch.Tensor | None = None) -> None:
    """Write the very bits of swiglu(x, bias) into out, contiguous [..., ffn], without autograd."""
    if use_kernels(x):
        _forward(x, bias, out)
    else:
        out.copy_(swiglu_reference(x, bias))
