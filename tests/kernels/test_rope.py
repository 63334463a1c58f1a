"""Rotary embedding against rotation by complex numbers in float64, its gradient, and transformers' Llama."""

from __future__ import annotations

import pytest
import torch

from megatron_bielik.kernels.rope import apply_rope, rope_cos_sin


def formula(x: torch.Tensor, positions: torch.Tensor, theta: float) -> torch.Tensor:
    """x [tokens, heads, d]: the pair (x_i, x_{i + d/2}) as a complex number, times exp(i p theta^(-2i/d))."""
    half = x.size(-1) // 2
    frequencies = theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = positions.double()[:, None] * frequencies
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angles), angles)[:, None]
    return torch.cat((turned.real, turned.imag), dim=-1)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 4e-2)])
@pytest.mark.parametrize(("heads", "dim"), [(1, 2), (3, 10), (5, 64)])
def test_against_complex_rotation(heads: int, dim: int, dtype: torch.dtype, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(dim)
    positions = torch.tensor([0, 1, 2, 0, 1, 30])  # restarts, as in a packed row
    x, grad = (torch.randn(6, heads, dim, generator=generator).to(dtype) for _ in range(2))
    x.requires_grad_()
    cos, sin = rope_cos_sin(positions, dim, 1e4, dtype)
    assert cos.dtype == sin.dtype == dtype
    assert cos.shape == sin.shape == (6, dim // 2)
    out = apply_rope(x, cos, sin)
    out.backward(grad)
    x64 = x.detach().double().requires_grad_()
    wanted = formula(x64, positions, 1e4)
    wanted.backward(grad.double())
    assert out.dtype == dtype
    assert x.grad is not None
    torch.testing.assert_close(out.double(), wanted, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(x.grad.double(), x64.grad, atol=tolerance, rtol=tolerance)


def test_gradient_is_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 2, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    cos, sin = rope_cos_sin(torch.arange(5), 6, 1e4, torch.float64)
    assert torch.autograd.gradcheck(lambda y: apply_rope(y, cos, sin), (x,))


def test_position_zero_and_length() -> None:
    x = torch.randn(4, 2, 8, generator=torch.Generator().manual_seed(2))
    zero = rope_cos_sin(torch.zeros(4, dtype=torch.long), 8, 1e6, torch.float32)
    assert torch.equal(apply_rope(x, *zero), x)
    turned = apply_rope(x, *rope_cos_sin(torch.arange(4) * 1000, 8, 1e6, torch.float32))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))


def test_scores_depend_on_the_distance_alone() -> None:
    generator = torch.Generator().manual_seed(3)
    query, key = (torch.randn(1, 1, 16, generator=generator, dtype=torch.float64) for _ in range(2))

    def score(p: int, q: int) -> torch.Tensor:
        a = apply_rope(query, *rope_cos_sin(torch.tensor([p]), 16, 1e4, torch.float64))
        b = apply_rope(key, *rope_cos_sin(torch.tensor([q]), 16, 1e4, torch.float64))
        return (a * b).sum()

    torch.testing.assert_close(score(3, 1), score(103, 101), atol=1e-4, rtol=0)
    assert (score(3, 1) - score(3, 2)).abs() > 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_transformers(dtype: torch.dtype) -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    config = LlamaConfig(
        head_dim=20,
        hidden_size=96,
        num_attention_heads=3,
        rope_parameters={"rope_theta": 12_345.0, "rope_type": "default"},
    )
    positions = torch.tensor([0, 5, 700, 8191])
    x = torch.randn(4, 3, 20, generator=torch.Generator().manual_seed(4)).to(dtype)
    row = x.transpose(0, 1)[None]  # [1, heads, tokens, d]
    theirs, _ = apply_rotary_pos_emb(row, row, *LlamaRotaryEmbedding(config)(row, positions[None]))
    ours = apply_rope(x, *rope_cos_sin(positions, 20, 12_345.0, dtype))
    assert torch.equal(ours, theirs[0].transpose(0, 1))


def test_no_tokens() -> None:
    cos, sin = rope_cos_sin(torch.zeros(0, dtype=torch.long), 8, 1e4, torch.bfloat16)
    assert apply_rope(torch.zeros(0, 3, 8, dtype=torch.bfloat16), cos, sin).shape == (0, 3, 8)
