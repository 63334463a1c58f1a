"""RMSNorm against the float64 formula, forward and gradients, and against transformers bit by bit."""

from __future__ import annotations

import pytest
import torch

from megatron_bielik.kernels.rms_norm import rms_norm

SHAPES = [(1, 1), (7, 1, 97), (3, 128), (0, 33), (2, 1001)]
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 3e-2}


def formula(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return weight * x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()


def inputs(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(sum(shape))
    x, grad = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    weight = (1 + 0.3 * torch.randn(shape[-1], generator=generator)).to(dtype)
    return x.requires_grad_(), weight.requires_grad_(), grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_against_the_formula(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, weight, grad = inputs(shape, dtype)
    out = rms_norm(x, weight, 1e-6)
    out.backward(grad)
    x64, weight64 = (t.detach().double().requires_grad_() for t in (x, weight))
    wanted = formula(x64, weight64, 1e-6)
    wanted.backward(grad.double())
    assert out.dtype == dtype
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(out.double(), wanted, atol=tolerance, rtol=tolerance)
    assert x.grad is not None
    assert weight.grad is not None
    torch.testing.assert_close(x.grad.double(), x64.grad, atol=tolerance, rtol=tolerance)
    # A sum over the rows: its rounding errors add up.
    torch.testing.assert_close(weight.grad.double(), weight64.grad, atol=tolerance * shape[0], rtol=tolerance)


def test_not_contiguous() -> None:
    x = torch.randn(9, 40, generator=torch.Generator().manual_seed(1))[:, ::2]
    weight = torch.linspace(0.5, 2, 20)
    assert not x.is_contiguous()
    torch.testing.assert_close(rms_norm(x, weight, 1e-5), formula(x.double(), weight.double(), 1e-5).float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_transformers(dtype: torch.dtype) -> None:
    from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

    x, weight, _ = inputs((5, 3, 96), dtype)
    theirs = Qwen2RMSNorm(96, eps=1e-6).to(dtype)
    theirs.weight = torch.nn.Parameter(weight.detach())
    assert torch.equal(rms_norm(x, weight, 1e-6), theirs(x))


def test_extremes() -> None:
    """Zeros stay zero, and squares that overflow bf16's or fp16's range do not overflow here."""
    weight = torch.ones(4)
    assert torch.equal(rms_norm(torch.zeros(2, 4), weight, 1e-6), torch.zeros(2, 4))
    large = rms_norm(torch.full((1, 4), 1e15), weight, 1e-6)
    torch.testing.assert_close(large, torch.ones(1, 4))
    x = torch.zeros(1, 4, requires_grad=True)
    rms_norm(x, weight, 1e-6).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.full((1, 4), 1e3))  # 1 / sqrt(eps)
