"""RMSNorm, alone or behind the residual sum that feeds it: y = w * h / sqrt(mean(h^2) + eps), h = residual + (x + bias).

x, residual, h, y: [..., hidden]; weight, bias: [hidden]. Computed in fp32; the normalised value is rounded to x's dtype before
the product with the weight (Zhang and Sennrich, 2019; as in transformers' Qwen2RMSNorm).
"""

from __future__ import annotations

from typing import Any

import torch

from megatron_bielik.kernels.dispatch import MULTIPROCESSORS, accumulate_type, tl, triton, use_kernels, widened
from megatron_bielik.kernels.rows import rows_of, sum_rows


def rms_norm_reference(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """The definition: see rms_norm."""
    wide = widened(x)
    normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * normed.to(x.dtype)


def add_rms_norm_reference(
    x: torch.Tensor, bias: torch.Tensor | None, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The definition: see add_rms_norm."""
    h = residual + (x if bias is None else x + bias)
    return h, rms_norm_reference(h, weight, eps)


@triton.jit
def _rms_norm_forward(
    x_ptr: tl.tensor,
    bias_ptr: tl.tensor | None,
    residual_ptr: tl.tensor | None,
    weight_ptr: tl.tensor,
    h_ptr: tl.tensor,
    y_ptr: tl.tensor,
    rstd_ptr: tl.tensor | None,
    x_stride: tl.constexpr,
    residual_stride: tl.constexpr,
    y_stride: tl.constexpr,
    hidden: tl.constexpr,
    eps: tl.constexpr,
    accumulate: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """One row a program."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, block)
    inside = columns < hidden
    weight = tl.load(weight_ptr + columns, mask=inside, other=0).to(accumulate)
    h = tl.load(x_ptr + row * x_stride + columns, mask=inside, other=0).to(accumulate)
    if residual_ptr is not None:
        if bias_ptr is not None:
            h += tl.load(bias_ptr + columns, mask=inside, other=0).to(accumulate)
        h += tl.load(residual_ptr + row * residual_stride + columns, mask=inside, other=0).to(accumulate)
        # Rounded before it is normalised: the norm of the stored sum, computed again, must have the same bits.
        kept = h.to(h_ptr.dtype.element_ty)
        tl.store(h_ptr + row * hidden + columns, kept, mask=inside)
        h = kept.to(accumulate)
    rstd = tl.rsqrt(tl.sum(h * h, axis=0) / hidden + eps)
    if rstd_ptr is not None:
        tl.store(rstd_ptr + row, rstd)
    normed = (h * rstd).to(y_ptr.dtype.element_ty).to(accumulate)
    tl.store(y_ptr + row * y_stride + columns, weight * normed, mask=inside)


@triton.jit
def _rms_norm_backward(
    dy_ptr: tl.tensor,
    dh_ptr: tl.tensor | None,
    h_ptr: tl.tensor,
    weight_ptr: tl.tensor,
    rstd_ptr: tl.tensor,
    dx_ptr: tl.tensor,
    partial_ptr: tl.tensor,
    tokens: int,
    dy_stride: tl.constexpr,
    dh_stride: tl.constexpr,
    h_stride: tl.constexpr,
    hidden: tl.constexpr,
    with_bias: tl.constexpr,
    accumulate: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Rows program, program + programs, ... of dx, and one row of partial sums: weight gradient, then bias gradient."""
    columns = tl.arange(0, block)
    inside = columns < hidden
    weight = tl.load(weight_ptr + columns, mask=inside, other=0)
    dweight = tl.zeros((block,), accumulate)
    dbias = tl.zeros((block,), accumulate)
    for row in range(tl.program_id(0), tokens, tl.num_programs(0)):
        start = tl.cast(row, tl.int64)
        dy = tl.load(dy_ptr + start * dy_stride + columns, mask=inside, other=0).to(accumulate)
        normed = tl.load(h_ptr + start * h_stride + columns, mask=inside, other=0).to(accumulate)
        dx = tl.zeros((block,), accumulate)
        if dh_ptr is not None:  # before the sum over the row, which waits: all of a row's loads are in flight together
            dx = tl.load(dh_ptr + start * dh_stride + columns, mask=inside, other=0).to(accumulate)
        rstd = tl.load(rstd_ptr + row)
        normed *= rstd
        dweight += dy * normed
        dnormed = dy * weight.to(accumulate)
        dx += rstd * (dnormed - normed * (tl.sum(dnormed * normed, axis=0) / hidden))
        if with_bias:
            dbias += dx
        tl.store(dx_ptr + start * hidden + columns, dx, mask=inside)
    partial_ptr += tl.program_id(0) * hidden * (2 if with_bias else 1)
    tl.store(partial_ptr + columns, dweight, mask=inside)
    if with_bias:
        tl.store(partial_ptr + hidden + columns, dbias, mask=inside)


def _block(hidden: int) -> tuple[int, int]:
    """Columns of a program, and its warps: 16 elements a thread, two 16-byte accesses in bf16."""
    block = triton.next_power_of_2(hidden)
    return block, min(16, max(1, block // 512))


def _forward(
    x: torch.Tensor,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    h: torch.Tensor | None,
    y: torch.Tensor,
    rstd: torch.Tensor | None,
    eps: float,
) -> None:
    """Launch the forward kernel."""
    if x.numel() == 0:
        return
    hidden, rows, sums = x.size(-1), rows_of(x), None if residual is None else rows_of(residual)
    block, warps = _block(hidden)
    _rms_norm_forward[(rows.size(0),)](
        rows, bias, sums, weight, h, y, rstd, rows.stride(0), 0 if sums is None else sums.stride(0), y.view(-1, hidden).stride(0),
        hidden, eps, accumulate_type(x), block, num_warps=warps,
    )  # fmt: skip


def _backward(
    dy: torch.Tensor,
    dh: torch.Tensor | None,
    h: torch.Tensor,
    weight: torch.Tensor,
    rstd: torch.Tensor,
    *,
    with_bias: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Launch the backward kernels: gradients of h, weight and bias."""
    hidden, dx = h.size(-1), torch.empty(h.shape, dtype=h.dtype, device=h.device)
    if h.numel() == 0:
        return dx, torch.zeros_like(weight), torch.zeros_like(weight) if with_bias else None
    dy, h, dh = rows_of(dy), rows_of(h), None if dh is None else rows_of(dh)
    block, warps = _block(hidden)
    # A multiprocessor's registers hold six programs of 2048 columns; one less for each further stream or sum.
    resident = max(1, (6 - (dh is not None) - with_bias) * 2048 // max(block, 2048))
    programs = min(h.size(0), MULTIPROCESSORS * resident)
    partial = torch.empty(programs, 2 if with_bias else 1, hidden, dtype=rstd.dtype, device=h.device)
    _rms_norm_backward[(programs,)](
        dy, dh, h, weight, rstd, dx, partial, h.size(0), dy.stride(0), 0 if dh is None else dh.stride(0), h.stride(0), hidden,
        with_bias, accumulate_type(h), block, num_warps=warps,
    )  # fmt: skip
    sums = sum_rows(partial, weight.dtype)
    return dx, sums[0], sums[1] if with_bias else None


def _rstd(x: torch.Tensor) -> torch.Tensor:
    """Room for 1 / sqrt(mean square) of every row."""
    return torch.empty(x.shape[:-1], dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        y, rstd = torch.empty(x.shape, dtype=x.dtype, device=x.device), _rstd(x)
        _forward(x, None, None, weight, None, y, rstd, eps)
        ctx.save_for_backward(x, weight, rstd)
        return y

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        x, weight, rstd = ctx.saved_tensors
        dx, dweight, _ = _backward(dy, None, x, weight, rstd, with_bias=False)
        return dx, dweight, None


class _AddRMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, bias: torch.Tensor | None, residual: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        h, y = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for _ in range(2))
        rstd = _rstd(x)
        _forward(x, bias, residual, weight, h, y, rstd, eps)
        ctx.save_for_backward(h, weight, rstd)
        ctx.with_bias = bias is not None
        ctx.set_materialize_grads(False)
        return h, y

    @staticmethod
    def backward(ctx: Any, dh: torch.Tensor | None, dy: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        if dy is None:  # nobody used the norm
            dbias = None
            if ctx.with_bias and dh is not None:
                dbias = widened(dh).flatten(0, -2).sum(0).to(dh.dtype)
            return dh, dbias, dh, None, None
        h, weight, rstd = ctx.saved_tensors
        dx, dweight, dbias = _backward(dy, dh, h, weight, rstd, with_bias=ctx.with_bias)
        return dx, dbias, dx, dweight, None


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Normalise the last dimension.

    Args:
        x: [..., hidden], fp32 or bf16.
        weight: [hidden], in x's dtype.
        eps: Added to the mean square.

    Returns:
        [..., hidden] in x's dtype; the product with the weight is taken in x's dtype, as transformers does.
    """
    if use_kernels(x):
        return _RMSNorm.apply(x, weight, eps)
    return rms_norm_reference(x, weight, eps)


def add_rms_norm(
    x: torch.Tensor, bias: torch.Tensor | None, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add to the residual stream and normalise the sum.

    Args:
        x, residual: [..., hidden], one shape and dtype.
        bias, weight: [hidden], in x's dtype.
        eps: Added to the mean square.

    Returns:
        h = residual + (x + bias), and rms_norm(h): [..., hidden].
    """
    if use_kernels(x):
        return _AddRMSNorm.apply(x, bias, residual, weight, eps)
    return add_rms_norm_reference(x, bias, residual, weight, eps)


@torch.no_grad()
def rms_norm_into(out: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, eps: float) -> None:
    """Write the very bits of rms_norm(x, weight, eps) into out, contiguous and of x's shape, without autograd."""
    if use_kernels(x):
        _forward(x, None, None, weight, None, out, None, eps)
    else:
        out.copy_(rms_norm_reference(x, weight, eps))
