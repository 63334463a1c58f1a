"""SwiGLU against silu(g + b_g) * (u + b_u) in float64, forward and gradients of input and bias."""

from __future__ import annotations

import pytest
import torch

from megatron_bielik.kernels.swiglu import swiglu


def formula(x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    ffn = x.size(-1) // 2
    if bias is not None:
        x = x + bias
    gate, up = x[..., :ffn], x[..., ffn:]
    return gate / (1 + torch.exp(-gate)) * up


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 6e-2)])
@pytest.mark.parametrize("shape", [(1, 2), (7, 1, 2 * 33), (5, 2 * 260), (0, 6)])
def test_against_the_formula(shape: tuple[int, ...], dtype: torch.dtype, tolerance: float, with_bias: bool) -> None:
    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(shape, generator=generator).to(dtype).requires_grad_()
    bias = torch.randn(shape[-1], generator=generator).to(dtype).requires_grad_() if with_bias else None
    out = swiglu(x, bias)
    assert out.dtype == dtype
    assert out.shape == (*shape[:-1], shape[-1] // 2)
    grad = torch.randn(out.shape, generator=generator).to(dtype)
    out.backward(grad)
    x64 = x.detach().double().requires_grad_()
    bias64 = None if bias is None else bias.detach().double().requires_grad_()
    wanted = formula(x64, bias64)
    wanted.backward(grad.double())
    pairs = [(out, wanted), (x.grad, x64.grad)]
    if bias is not None and bias64 is not None:
        pairs.append((bias.grad, bias64.grad))
    for found, needed in pairs:
        assert found is not None
        assert needed is not None
        torch.testing.assert_close(found.double(), needed, atol=tolerance, rtol=tolerance)


def test_gradient_is_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 10, dtype=torch.float64, generator=generator, requires_grad=True)
    bias = torch.randn(10, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(swiglu, (x, bias))


def test_gate_comes_first() -> None:
    assert torch.equal(swiglu(torch.tensor([[0.0, 5.0]])), torch.tensor([[0.0]]))  # silu(0) * 5
    assert swiglu(torch.tensor([[5.0, 0.0]])).item() == 0  # silu(5) * 0
    assert swiglu(torch.tensor([[100.0, 3.0]])).item() == 300


def test_extremes_are_finite() -> None:
    x = torch.tensor([[-1e4, 1e4, 3.0, 3.0]], requires_grad=True)
    out = swiglu(x)
    assert torch.equal(out, torch.tensor([[0.0, 3e4]]))
    out.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.tensor([[0.0, 3.0, 0.0, 1e4]]))


def test_not_contiguous_and_input_unchanged() -> None:
    whole = torch.randn(6, 24, generator=torch.Generator().manual_seed(5))
    x, bias = whole[:, ::2], torch.ones(12)
    kept = whole.clone()
    torch.testing.assert_close(swiglu(x, bias), formula(x.double(), bias.double()).float())
    assert torch.equal(whole, kept)
