"""Rotary position embedding, half-rotation form, with one position per token (Su et al., 2021; as in transformers' Llama)."""

from __future__ import annotations

import torch


def rope_cos_sin(
    positions: torch.Tensor, head_dim: int, theta: float, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of every position's angles p * theta^(-2i/d), angles in fp32.

    Args:
        positions: [tokens], integer; restart at each document.
        head_dim: d, even.
        theta: Base of the frequencies.
        dtype: Of the result.

    Returns:
        cos, sin: [tokens, head_dim / 2].
    """
    steps = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device) / head_dim
    angles = positions.float()[:, None] * (1.0 / theta**steps)[None, :]
    return angles.cos().to(dtype), angles.sin().to(dtype)


def apply_rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate (x1, x2) to (x1 cos - x2 sin, x2 cos + x1 sin), x1 and x2 the halves of each head.

    Args:
        x: [tokens, heads, head_dim].
        cos, sin: [tokens, head_dim / 2], in x's dtype.

    Returns:
        [tokens, heads, head_dim].
    """
    x1, x2 = x.chunk(2, dim=-1)
    cos, sin = cos[:, None, :], sin[:, None, :]
    return torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=-1)
