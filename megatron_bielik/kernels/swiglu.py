"""SwiGLU with bias: y = silu(g + b_g) * (u + b_u), gate and up read from one buffer (Shazeer, 2020)."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def swiglu(x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Gate the upper half of the last dimension by the SiLU of the lower.

    Args:
        x: [..., 2 * ffn], gate first.
        bias: [2 * ffn] or none.

    Returns:
        [..., ffn].
    """
    if bias is not None:
        x = x + bias
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up
