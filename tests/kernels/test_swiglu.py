"""SwiGLU against silu(g + b_g) * (u + b_u) in float64, forward and gradients of input and bias."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
import torch

from megatron_bielik.kernels import swiglu as module
from megatron_bielik.kernels.swiglu import swiglu, swiglu_into

if TYPE_CHECKING:
    from tests.kernels.hopper import Compiled

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = [(1, 2), (7, 1, 2 * 33), (5, 2 * 260), (0, 6), (7, 2 * 1003), (100, 2 * 40)]
# One rounding to bf16. Triton's interpreter cuts off where a GPU rounds to the nearest.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-7}
QUICK = ((1000, 2 * 2056), torch.bfloat16, True)
MATRIX = [
    pytest.param(*case, marks=() if case[0][0] == 7 or case == QUICK else pytest.mark.full)
    for case in product(product((1, 7, 1000), (2 * 2056, 2 * 8960, 2 * 11008)), TOLERANCE, (True, False))
]


@pytest.fixture
def implementation(implementation: str, monkeypatch: pytest.MonkeyPatch) -> str:
    if implementation == "kernel":
        monkeypatch.setattr(module, "MULTIPROCESSORS", 2)  # few programs: each walks down many rows
    return implementation


def formula(x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    ffn = x.size(-1) // 2
    if bias is not None:
        x = x + bias
    gate, up = x[..., :ffn], x[..., ffn:]
    return gate / (1 + torch.exp(-gate)) * up


@pytest.mark.parametrize(("shape", "dtype", "with_bias"), [*product(SHAPES, TOLERANCE, (True, False)), *MATRIX])
def test_against_the_formula(
    implementation: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    with_bias: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if DEVICE == "cpu" and shape[0] == 1000:  # the interpreter takes milliseconds for a tile, however large
        monkeypatch.setattr(module, "COLUMNS", 1024)
        monkeypatch.setattr(module, "ROWS", 64)
    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(shape, generator=generator).to(DEVICE, dtype).requires_grad_()
    bias = torch.randn(shape[-1], generator=generator).to(DEVICE, dtype).requires_grad_() if with_bias else None
    out = swiglu(x, bias)
    assert out.dtype == dtype
    assert out.shape == (*shape[:-1], shape[-1] // 2)
    grad = torch.randn(out.shape, generator=generator).to(DEVICE, dtype)
    out.backward(grad)
    x64 = x.detach().double().requires_grad_()
    bias64 = None if bias is None else bias.detach().double().requires_grad_()
    wanted = formula(x64, bias64)
    wanted.backward(grad.double())
    tolerance = TOLERANCE[dtype]
    pairs = [(out, wanted, tolerance), (x.grad, x64.grad, tolerance)]
    if bias is not None and bias64 is not None:
        # Of a sum over the rows the rounding errors add up, as a random walk.
        pairs.append((bias.grad, bias64.grad, tolerance * max(1, shape[0]) ** 0.5))
    for found, needed, atol in pairs:
        assert found is not None
        assert needed is not None
        torch.testing.assert_close(found.double(), needed, atol=atol, rtol=tolerance)


def test_gradient_is_exact(implementation: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 6, dtype=torch.float64, generator=generator).to(DEVICE).requires_grad_()
    bias = torch.randn(6, dtype=torch.float64, generator=generator).to(DEVICE).requires_grad_()
    assert torch.autograd.gradcheck(swiglu, (x, bias))
    assert torch.autograd.gradcheck(swiglu, (x,))


def test_gate_comes_first(implementation: str) -> None:
    assert swiglu(torch.tensor([[0.0, 5.0]], device=DEVICE)).item() == 0  # silu(0) * 5
    assert swiglu(torch.tensor([[5.0, 0.0]], device=DEVICE)).item() == 0  # silu(5) * 0
    assert swiglu(torch.tensor([[100.0, 3.0]], device=DEVICE)).item() == pytest.approx(300)


def test_extremes_are_finite(implementation: str) -> None:
    x = torch.tensor([[-1e4, 1e4, 3.0, 3.0]], device=DEVICE, requires_grad=True)
    out = swiglu(x)
    torch.testing.assert_close(out, torch.tensor([[0.0, 3e4]], device=DEVICE))
    out.sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([[0.0, 3.0, 0.0, 1e4]], device=DEVICE))


@pytest.mark.parametrize("columns", [slice(0, 12), slice(0, 24, 2)])
def test_not_contiguous_and_input_unchanged(implementation: str, columns: slice) -> None:
    whole = torch.randn(6, 24, generator=torch.Generator().manual_seed(5)).to(DEVICE)
    kept = whole.clone()
    x, bias = whole[:, columns].requires_grad_(), torch.ones(12, device=DEVICE)
    x64 = x.detach().double().requires_grad_()
    out, wanted = swiglu(x, bias), formula(x64, bias.double())
    torch.testing.assert_close(out.double(), wanted, atol=1e-5, rtol=1e-5)
    grad = torch.linspace(-1, 1, 6, device=DEVICE)[:, None].expand(6, 6)
    (found,), (needed,) = torch.autograd.grad(out, x, grad), torch.autograd.grad(wanted, x64, grad.double())
    torch.testing.assert_close(found.double(), needed, atol=1e-5, rtol=1e-5)
    assert torch.equal(whole, kept)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("shape", [(9, 1, 2 * 33), (0, 6), (3, 2 * 520)])
def test_the_same_bits_again(implementation: str, shape: tuple[int, ...], with_bias: bool, dtype: torch.dtype) -> None:
    """What recomputation rests on."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(6)).to(DEVICE, dtype).requires_grad_()
    bias = torch.linspace(-1, 1, shape[-1], device=DEVICE).to(dtype).requires_grad_() if with_bias else None
    once = swiglu(x, bias)
    again = torch.full_like(once, torch.nan)
    swiglu_into(again, x, bias)
    assert torch.equal(again, once)
    assert not again.requires_grad


def launches() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Production sizes, for hopper.py."""
    for ffn in (8960, 11008):
        x = torch.zeros(2048, 2 * ffn, dtype=torch.bfloat16, requires_grad=True)
        grad = torch.zeros(2048, ffn, dtype=torch.bfloat16)
        for bias in (None, torch.zeros(2 * ffn, dtype=torch.bfloat16, requires_grad=True)):
            yield f"{ffn} {bias is not None}", lambda x=x, b=bias, g=grad: swiglu(x, b).backward(g)


def test_compiles_for_hopper(compiled: list[Compiled]) -> None:
    """No spills, and 16 bytes an access but for the biases and their sums: once a program, at its beginning or its end."""
    assert len({kernel.case for kernel in compiled}) == 4
    assert {kernel.kernel for kernel in compiled} == {"_swiglu_forward", "_swiglu_backward", "_sum_rows"}
    for kernel in compiled:
        assert kernel.spilled_bytes == 0, kernel
        bias = kernel.case.endswith("True")
        narrow = {"_swiglu_forward": [4, 4], "_swiglu_backward": [4, 4, 8, 8], "_sum_rows": [2]}[kernel.kernel]
        assert [width for width in kernel.widths if width != 16] == (narrow if bias else []), kernel
        # Programs of the backward kernel on a multiprocessor, as their number assumes: 4 with a bias, 8 without.
        assert kernel.registers <= (128 if bias else 64), kernel
