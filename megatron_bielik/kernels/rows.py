"""What kernels over rows share: tensors as rows, and the second stage of a sum over all rows, in a fixed order."""

from __future__ import annotations

import torch

from megatron_bielik.kernels.dispatch import tl, triton


@triton.jit
def _sum_rows(
    x_ptr: tl.tensor,
    out_ptr: tl.tensor,
    rows: int,
    width: tl.constexpr,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
) -> None:
    columns = tl.program_id(0) * block_columns + tl.arange(0, block_columns)
    total = tl.zeros((block_rows, block_columns), x_ptr.dtype.element_ty)
    for first in range(0, rows, block_rows):
        row = first + tl.arange(0, block_rows)
        inside = (row < rows)[:, None] & (columns < width)[None, :]
        total += tl.load(x_ptr + row[:, None] * width + columns[None, :], mask=inside, other=0)
    tl.store(out_ptr + columns, tl.sum(total, axis=0), mask=columns < width)


def sum_rows(partial: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Second stage of a parameter's gradient, in a fixed order: contiguous partial [rows, ...] -> the sum [...] in dtype."""
    out = torch.empty(partial.shape[1:], dtype=dtype, device=partial.device)
    # A tile of 16 KiB; with many rows it is narrow (64 bytes), so that there are enough programs for the whole device.
    block_rows = min(256, triton.next_power_of_2(partial.size(0)))
    block_columns = 4096 // block_rows
    grid = (triton.cdiv(out.numel(), block_columns),)
    _sum_rows[grid](partial, out, partial.size(0), out.numel(), block_rows, block_columns, num_warps=8)
    return out


def rows_of(x: torch.Tensor) -> torch.Tensor:
    """[..., width] as [rows, width] whose last dimension is contiguous; a copy only where it must be."""
    x = x.reshape(-1, x.size(-1))
    return x if x.stride(-1) == 1 else x.contiguous()
