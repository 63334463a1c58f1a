"""Matrix products in 8-bit floating point: y = (s_x x8) (s_w w8)^T, torch._scaled_mm, dynamic scales from the largest value.

Values are divided by scale = max |x| / largest fp8 number, over the tensor (tensorwise) or over each row that is summed
(rowwise, which keeps outliers of one token or one output from costing all others their precision). Forward operands are
e4m3 (4 bits exponent, 3 mantissa). Gradients are e5m2 when scaled tensorwise, for their range, and e4m3 rowwise, whose
kernels know nothing else (Micikevicius et al., 2022, FP8 formats for deep learning). Given up: 8-bit weight gradients, whose
sums over tokens suffer most; they stay a 16-bit product into the fp32 buffer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal

import torch

Scaling = Literal["tensorwise", "rowwise"]

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
SMALLEST_LARGEST = 1e-12  # of an all-zero tensor, whose scale would be zero


def quantize(x: torch.Tensor, dtype: torch.dtype, scaling: Scaling) -> tuple[torch.Tensor, torch.Tensor]:
    """Round to fp8.

    Args:
        x: [rows, columns]; columns is the dimension that the product sums over.
        dtype: E4M3 or E5M2.
        scaling: One scale for the tensor or one for each row.

    Returns:
        x8 [rows, columns] and its scale, fp32, [] or [rows, 1]: x is about scale * x8.
    """
    largest = x.abs().amax(-1, keepdim=True) if scaling == "rowwise" else x.abs().amax()
    scale = largest.float().clamp(min=SMALLEST_LARGEST) / torch.finfo(dtype).max
    limit = torch.finfo(dtype).max
    return (x.float() / scale).clamp(-limit, limit).to(dtype), scale


@functools.cache
def _compiled_quantize() -> Callable[[torch.Tensor, torch.dtype, Scaling], tuple[torch.Tensor, torch.Tensor]]:
    return torch.compile(quantize, dynamic=True)  # one program for the shapes of all linears


def _round(x: torch.Tensor, dtype: torch.dtype, scaling: Scaling, compiled: bool) -> tuple[torch.Tensor, torch.Tensor]:
    return (_compiled_quantize() if compiled and x.is_cuda else quantize)(x, dtype, scaling)


def fp8_matmul(
    a: torch.Tensor, b_transposed: torch.Tensor, scaling: Scaling, a_dtype: torch.dtype = E4M3, compiled: bool = True
) -> torch.Tensor:
    """a b with both operands rounded to fp8.

    Args:
        a: [m, k], k a multiple of 16.
        b_transposed: [n, k], n a multiple of 16: cuBLASLt wants the second operand column by column.
        scaling: See quantize.
        a_dtype: E4M3, or E5M2 for gradients.
        compiled: Round with torch.compile, on a GPU.

    Returns:
        [m, n] in a's dtype, summed in fp32.
    """
    a8, a_scale = _round(a, a_dtype, scaling, compiled)
    b8, b_scale = _round(b_transposed, E4M3, scaling, compiled)
    if scaling == "rowwise":
        b_scale = b_scale.t()
    return torch._scaled_mm(a8, b8.t(), scale_a=a_scale, scale_b=b_scale, out_dtype=a.dtype)


def fp8_linear_forward(x: torch.Tensor, weight: torch.Tensor, scaling: Scaling, compiled: bool = True) -> torch.Tensor:
    """x weight^T: x [tokens, in], weight [out, in] -> [tokens, out]."""
    return fp8_matmul(x, weight, scaling, compiled=compiled)


def fp8_linear_input_gradient(
    grad_output: torch.Tensor, weight: torch.Tensor, scaling: Scaling, compiled: bool = True
) -> torch.Tensor:
    """grad_output weight: [tokens, out], [out, in] -> [tokens, in]."""
    kind = E5M2 if scaling == "tensorwise" else E4M3
    return fp8_matmul(grad_output, weight.t().contiguous(), scaling, kind, compiled)
