"""RMSNorm: y = w * x / sqrt(mean(x^2) + eps), computed in fp32 (Zhang and Sennrich, 2019; as in transformers' Qwen2RMSNorm)."""

from __future__ import annotations

import torch


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Normalise the last dimension.

    Args:
        x: [..., hidden], fp32 or bf16.
        weight: [hidden].
        eps: Added to the mean square.

    Returns:
        [..., hidden] in x's dtype; the product with the weight is taken in x's dtype, as transformers does.
    """
    fp32 = x.float()
    normed = fp32 * torch.rsqrt(fp32.pow(2).mean(-1, keepdim=True) + eps)
    return weight * normed.to(x.dtype)
