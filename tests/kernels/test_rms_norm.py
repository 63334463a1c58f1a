"""RMSNorm, alone and behind the residual sum: definition and kernel against the float64 formula, and transformers bit by bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
import torch

from megatron_bielik.kernels import rms_norm as module
from megatron_bielik.kernels.dispatch import forced_kernels
from megatron_bielik.kernels.rms_norm import add_rms_norm, rms_norm, rms_norm_into

if TYPE_CHECKING:
    from tests.kernels.hopper import Compiled

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Two roundings to bf16. Triton's interpreter cuts off where a GPU rounds to the nearest.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2**-6}
DTYPES = [torch.float32, torch.bfloat16]


def matrix(quick: object = None) -> list[Any]:
    """Shapes and dtypes: without --full those of 7 tokens and `quick`, for the interpreter takes milliseconds for a row."""
    return [
        pytest.param(shape, dtype, marks=() if shape[0] == 7 or (shape, dtype) == quick else pytest.mark.full)
        for shape, dtype in product(product((1, 7, 1000), (1536, 2048, 2056)), DTYPES)
    ]


@pytest.fixture
def implementation(implementation: str, monkeypatch: pytest.MonkeyPatch) -> str:
    if implementation == "kernel":
        monkeypatch.setattr(module, "MULTIPROCESSORS", 2)  # few programs: each has many rows
    return implementation


def formula(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return weight * x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()


def add_formula(
    x: torch.Tensor, bias: torch.Tensor | None, residual: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    h = residual + x if bias is None else residual + x + bias
    return h, formula(h, weight, 1e-6)


def inputs(shape: tuple[int, ...], dtype: torch.dtype, count: int = 2) -> list[torch.Tensor]:
    """Tensors of the shape, then weight and bias."""
    generator = torch.Generator().manual_seed(sum(shape))
    tensors = [torch.randn(shape, generator=generator) for _ in range(count)]
    tensors.append(1 + 0.3 * torch.randn(shape[-1], generator=generator))
    tensors.append(torch.randn(shape[-1], generator=generator))
    return [tensor.to(DEVICE, dtype) for tensor in tensors]


def leaves(tensors: list[torch.Tensor], dtype: torch.dtype | None = None) -> list[torch.Tensor]:
    return [tensor.detach().to(dtype or tensor.dtype).requires_grad_() for tensor in tensors]


def close(found: torch.Tensor | None, wanted: torch.Tensor | None, tolerance: float, terms: int = 1) -> None:
    """Of a sum over `terms` rows the rounding errors add up, as a random walk."""
    assert found is not None
    assert wanted is not None
    torch.testing.assert_close(found.double(), wanted, atol=tolerance * max(terms, 1) ** 0.5, rtol=tolerance)


SHAPES = [(1, 1), (7, 1, 97), (3, 128), (0, 33), (2, 1001)]


@pytest.mark.parametrize(("shape", "dtype"), [*product(SHAPES, DTYPES), *matrix(quick=((1000, 1536), torch.float32))])
def test_against_the_formula(implementation: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, grad, weight, _ = inputs(shape, dtype)
    x, weight = leaves([x, weight])
    out = rms_norm(x, weight, 1e-6)
    out.backward(grad)
    x64, weight64 = leaves([x, weight], torch.float64)
    wanted = formula(x64, weight64, 1e-6)
    wanted.backward(grad.double())
    assert out.dtype == dtype
    close(out, wanted, TOLERANCE[dtype])
    close(x.grad, x64.grad, TOLERANCE[dtype])
    close(weight.grad, weight64.grad, TOLERANCE[dtype], shape[0])


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(("shape", "dtype"), [*product([(1, 5), (7, 1, 97), (0, 33)], DTYPES), *matrix()])
def test_sum_and_norm_against_the_formula(
    implementation: str, shape: tuple[int, ...], dtype: torch.dtype, with_bias: bool
) -> None:
    x, residual, dh, dy, weight, bias = inputs(shape, dtype, 4)
    ours = leaves([x, residual, weight, bias] if with_bias else [x, residual, weight])
    outputs = add_rms_norm(ours[0], ours[3] if with_bias else None, *ours[1:3], 1e-6)
    torch.autograd.backward(outputs, (dh, dy))
    theirs = leaves(ours, torch.float64)
    wanted = add_formula(theirs[0], theirs[3] if with_bias else None, *theirs[1:3])
    torch.autograd.backward(wanted, (dh.double(), dy.double()))
    for found, needed in zip(outputs, wanted, strict=True):
        assert found.dtype == dtype
        close(found, needed, 2 * TOLERANCE[dtype])
    for found, needed, terms in zip(ours, theirs, (1, 1, shape[0], shape[0]), strict=False):
        close(found.grad, needed.grad, 2 * TOLERANCE[dtype], terms)


@pytest.mark.parametrize("used", ["h", "y", "both"])
@pytest.mark.parametrize("with_bias", [True, False])
def test_outputs_that_nobody_uses(implementation: str, used: str, with_bias: bool) -> None:
    x, residual, dh, dy, weight, bias = inputs((5, 24), torch.float32, 4)
    ours = leaves([x, residual, weight, bias])
    theirs = leaves(ours, torch.float64)
    outputs = add_rms_norm(ours[0], ours[3] if with_bias else None, ours[1], ours[2], 1e-6)
    wanted = add_formula(theirs[0], theirs[3] if with_bias else None, theirs[1], theirs[2])
    picked = {"h": [0], "y": [1], "both": [0, 1]}[used]
    torch.autograd.backward([outputs[i] for i in picked], [(dh, dy)[i] for i in picked])
    torch.autograd.backward([wanted[i] for i in picked], [(dh, dy)[i].double() for i in picked])
    for found, needed in zip(ours, theirs, strict=True):
        assert (found.grad is None) == (needed.grad is None)
        if found.grad is not None:
            close(found.grad, needed.grad, 2e-5)


def test_gradient_is_exact(implementation: str) -> None:
    x, residual, weight, bias = leaves(inputs((2, 3), torch.float64))
    assert torch.autograd.gradcheck(lambda *args: rms_norm(*args, 1e-6), (x, weight))
    assert torch.autograd.gradcheck(lambda *args: add_rms_norm(*args, 1e-6), (x, bias, residual, weight))


@pytest.mark.parametrize("columns", [slice(0, 20), slice(0, 40, 2)])
def test_not_contiguous(implementation: str, columns: slice) -> None:
    x, residual, dh, dy = (t[:, columns] for t in inputs((9, 40), torch.float32, 4)[:4])
    weight, bias = torch.linspace(0.5, 2, 20, device=DEVICE), torch.linspace(-1, 1, 20, device=DEVICE)
    assert not x.is_contiguous()
    close(rms_norm(x, weight, 1e-6), formula(x.double(), weight.double(), 1e-6), 2e-5)
    ours = [x.detach().requires_grad_(), bias, residual.detach().requires_grad_(), weight.requires_grad_()]
    theirs = leaves(ours, torch.float64)
    torch.autograd.backward(add_rms_norm(*ours, 1e-6), (dh, dy))
    torch.autograd.backward(add_formula(*theirs), (dh.double(), dy.double()))
    for i in (0, 2, 3):
        close(ours[i].grad, theirs[i].grad, 2e-5, 9)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(7, 1, 97), (5, 1536), (0, 33)])
def test_the_same_bits_again(implementation: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """What recomputation rests on, for the norm alone and for the one of a sum."""
    x, residual, weight, bias = leaves(inputs(shape, dtype))
    h, y = add_rms_norm(x, bias, residual, weight, 1e-6)
    for source, once in ((x, rms_norm(x, weight, 1e-6)), (h, y)):
        again = torch.full_like(once, torch.nan)
        rms_norm_into(again, source, weight, 1e-6)
        assert torch.equal(again, once)
        assert not again.requires_grad


@pytest.mark.parametrize("tokens", [260, pytest.param(1000, marks=pytest.mark.full)])
def test_many_programs(tokens: int) -> None:
    """As many as on a GPU, each with a row or two: more than are summed at a time."""
    pytest.importorskip("triton")
    x, residual, dh, dy, weight, bias = inputs((tokens, 24), torch.float32, 4)
    ours = leaves([x, bias, residual, weight])
    theirs = leaves(ours, torch.float64)
    with forced_kernels():
        torch.autograd.backward(add_rms_norm(*ours, 1e-6), (dh, dy))
    torch.autograd.backward(add_formula(*theirs), (dh.double(), dy.double()))
    for found, needed, terms in zip(ours, theirs, (1, tokens, 1, tokens), strict=True):
        close(found.grad, needed.grad, 2e-5, terms)


@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_transformers(dtype: torch.dtype) -> None:
    from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

    x, _, weight, _ = (tensor.cpu() for tensor in inputs((5, 3, 96), dtype))
    theirs = Qwen2RMSNorm(96, eps=1e-6).to(dtype)
    theirs.weight = torch.nn.Parameter(weight)
    assert torch.equal(rms_norm(x, weight, 1e-6), theirs(x))


def test_extremes(implementation: str) -> None:
    """Zeros stay zero, and squares that overflow bf16's or fp16's range do not overflow here."""
    weight = torch.ones(4, device=DEVICE)
    assert torch.equal(rms_norm(torch.zeros(2, 4, device=DEVICE), weight, 1e-6), torch.zeros(2, 4, device=DEVICE))
    large = rms_norm(torch.full((1, 4), 1e15, device=DEVICE), weight, 1e-6)
    torch.testing.assert_close(large, torch.ones(1, 4, device=DEVICE))
    x = torch.zeros(1, 4, requires_grad=True, device=DEVICE)
    rms_norm(x, weight, 1e-6).sum().backward()
    torch.testing.assert_close(x.grad, torch.full((1, 4), 1e3, device=DEVICE))  # 1 / sqrt(eps)


def launches() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Production sizes, for hopper.py."""
    for hidden in (1536, 2048, 2056):
        x, residual, weight, bias = leaves(inputs((4096, hidden), torch.bfloat16))
        grad = torch.ones_like(x)
        yield f"alone {hidden}", lambda x=x, w=weight, g=grad: rms_norm(x, w, 1e-6).backward(g)
        for name, b in (("sum", None), ("sum with bias", bias)):
            yield (
                f"{name} {hidden}",
                lambda x=x, b=b, r=residual, w=weight, g=grad: torch.autograd.backward(
                    add_rms_norm(x, b, r, w, 1e-6), (g, g)
                ),
            )


def test_compiles_for_hopper(compiled: list[Compiled]) -> None:
    """No spills, and 16 bytes an access: only the rows' fp32 factors and the two-byte sums of 16 columns are narrower."""
    assert len({kernel.case for kernel in compiled}) == 9
    for kernel in compiled:
        assert kernel.spilled_bytes == 0, kernel
        narrow = [width for width in kernel.widths if width != 16]
        assert narrow == {"_rms_norm_forward": [4], "_rms_norm_backward": [4], "_sum_rows": [2]}[kernel.kernel], kernel
    assert {kernel.kernel for kernel in compiled} == {"_rms_norm_forward", "_rms_norm_backward", "_sum_rows"}
    # Four programs of the backward kernel on a multiprocessor, as the number of programs assumes.
    assert all(kernel.registers <= 128 for kernel in compiled)
