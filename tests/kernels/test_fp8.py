"""Products in fp8: rounding against float64, scales, and what each scaling is good for."""

from __future__ import annotations

import pytest
import torch

from megatron_bielik.kernels.fp8 import (
    E4M3,
    E5M2,
    Scaling,
    _compiled_quantize,
    fp8_linear_forward,
    fp8_linear_input_gradient,
    quantize,
)

# Half a step of the mantissa: 3 bits and 2 bits.
ROUNDING = {E4M3: 2**-4, E5M2: 2**-3}
SCALINGS: tuple[Scaling, ...] = ("tensorwise", "rowwise")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("dtype", [E4M3, E5M2])
def test_rounding(scaling: Scaling, dtype: torch.dtype) -> None:
    x = normal(7, 64)
    x8, scale = quantize(x, dtype, scaling)
    assert (x8.dtype, scale.dtype) == (dtype, torch.float32)
    assert scale.shape == ((7, 1) if scaling == "rowwise" else ())
    large = x.abs() > 0.05  # below, numbers are subnormal and the step is fixed
    error = (x8.double() * scale - x.double()).abs() / x.double().abs()
    assert error[large].max() <= ROUNDING[dtype] * 1.001
    largest = x8.double().abs().amax(-1) if scaling == "rowwise" else x8.double().abs().amax()
    assert (largest == torch.finfo(dtype).max).all()


@pytest.mark.parametrize("scaling", SCALINGS)
def test_zeros_stay_zeros(scaling: Scaling) -> None:
    x8, scale = quantize(torch.zeros(3, 16, dtype=torch.bfloat16), E4M3, scaling)
    assert torch.equal(x8.float(), torch.zeros(3, 16))
    assert torch.isfinite(scale).all()


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("tokens", [1, 7, 96])
def test_products_against_float64(tokens: int, scaling: Scaling) -> None:
    x, weight, grad = normal(tokens, 128), normal(48, 128, seed=1), normal(tokens, 48, seed=2)
    pairs = (
        (fp8_linear_forward(x, weight, scaling), x.double() @ weight.double().t()),
        (fp8_linear_input_gradient(grad, weight, scaling), grad.double() @ weight.double()),
    )
    for found, exact in pairs:
        assert found.dtype is torch.bfloat16
        # Independent roundings of both factors: their relative errors add in squares over the sum.
        assert (found.double() - exact).norm() / exact.norm() < 0.08


def test_rowwise_scales_protect_the_other_tokens_from_an_outlier() -> None:
    x, weight = normal(8, 64), normal(32, 64, seed=1)
    x[3, 5] = 3e5
    exact = x.double() @ weight.double().t()
    others = torch.arange(8) != 3

    def error(scaling: Scaling) -> float:
        found = fp8_linear_forward(x, weight, scaling).double()
        return float((found - exact)[others].norm() / exact[others].norm())

    assert error("rowwise") < 0.08
    assert error("tensorwise") > 0.3


@pytest.mark.parametrize("scaling", SCALINGS)
def test_compiled_rounding_is_the_same(scaling: Scaling) -> None:
    x = normal(9, 64)
    for found, wanted in zip(_compiled_quantize()(x, E4M3, scaling), quantize(x, E4M3, scaling), strict=True):
        assert torch.equal(found.float(), wanted.float())
