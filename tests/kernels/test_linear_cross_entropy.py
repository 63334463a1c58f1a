"""Output matrix and loss in chunks against the float64 definition: values, gradients, the fp32 buffer, memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from megatron_bielik.kernels import cross_entropy
from megatron_bielik.kernels.dispatch import forced_kernels
from megatron_bielik.kernels.linear_cross_entropy import linear_cross_entropy, linear_cross_entropy_reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Logits and their gradient are rounded to bf16 on the way; sums over them are not.
DTYPES = [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)]


def case(tokens: int, hidden: int, columns: int, vocab_size: int, dtype: torch.dtype, device: str = "cpu") -> Any:
    """hidden, weight, labels, gradient of the loss."""
    generator = torch.Generator().manual_seed(tokens + columns)
    x = torch.randn(tokens, hidden, generator=generator).to(dtype)
    weight = (2 / hidden**0.5 * torch.randn(columns, hidden, generator=generator)).to(dtype)
    labels = torch.randint(vocab_size, (tokens,), generator=generator)
    return [t.to(device) for t in (x, weight, labels, torch.rand(tokens, generator=generator))]


def wanted(
    x: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, grad: torch.Tensor, vocab_size: int, *options: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Loss and gradients of the definition in float64."""
    x64, weight64 = (t.detach().double().requires_grad_() for t in (x, weight))
    loss = linear_cross_entropy_reference(x64, weight64[:vocab_size], labels, *options)
    loss.backward(grad.double())
    assert x64.grad is not None
    assert weight64.grad is not None
    return loss.detach(), x64.grad, weight64.grad


def close(found: Any, needed: Any, tolerance: float) -> None:
    """Within a part of the largest value: a sum over the vocabulary or the tokens has errors of the size of its terms."""
    for value, number in zip(found, needed, strict=True):
        assert value is not None
        largest = float(number.abs().max()) if number.numel() else 0.0
        torch.testing.assert_close(value.double(), number.to(value.device), atol=tolerance * largest, rtol=tolerance)


SIZES = [(1, 8, 3, 3, 8192), (29, 32, 320, 301, 8), (0, 8, 33, 33, 4)]
MATRIX = [
    pytest.param(tokens, 16, 32_000, vocab_size, chunk, marks=() if tokens == 7 else pytest.mark.full)
    for (tokens, chunk), vocab_size in product(((1, 4), (7, 4), (1000, 300)), (31_999, 32_000))
]


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize(("tokens", "hidden", "columns", "vocab_size", "chunk"), [*SIZES, *MATRIX])
def test_against_the_definition(
    device: str,
    tokens: int,
    hidden: int,
    columns: int,
    vocab_size: int,
    chunk: int,
    dtype: torch.dtype,
    tolerance: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if DEVICE == "cpu" and tokens == 1000:  # the interpreter takes milliseconds for a block, however wide
        monkeypatch.setattr(cross_entropy, "FORWARD_BLOCK", 16_384)
        monkeypatch.setattr(cross_entropy, "BACKWARD_BLOCK", 16_384)
    x, weight, labels, grad = case(tokens, hidden, columns, vocab_size, dtype, device)
    mask = torch.arange(tokens, device=device) % 4 != 1
    needed = wanted(x, weight, labels, grad, vocab_size, mask, 1e-2)
    labels[~mask] = -100
    x.requires_grad_()
    weight.requires_grad_()
    loss = linear_cross_entropy(x, weight, labels, 0, vocab_size, None, mask, 1e-2, chunk)
    assert loss.dtype == torch.float32
    loss.backward(grad)
    assert x.grad is not None
    assert x.grad.dtype == weight.grad.dtype == dtype
    close((loss.detach(), x.grad, weight.grad), needed, tolerance)
    assert not loss[~mask].any()
    assert not x.grad[~mask].any()


@pytest.mark.parametrize("chunk", [3, 13])
def test_main_grad_takes_the_gradient(device: str, chunk: int) -> None:
    """It is added in fp32, on top of what is there, and autograd gets nothing."""
    x, weight, labels, grad = case(13, 16, 64, 60, torch.bfloat16, device)
    _, _, weight_grad = wanted(x, weight, labels, grad, 60)
    main_grad = torch.full(weight.shape, 0.5, device=device)
    weight.requires_grad_()
    linear_cross_entropy(x, weight, labels, 0, 60, None, chunk=chunk, main_grad=main_grad).backward(grad)
    assert weight.grad is None
    close((main_grad - 0.5,), (weight_grad,), 3e-2)


def test_megatron_core_is_told() -> None:
    """A parameter of megatron-core's gets some gradient, which its hooks expect, and the mark not to use it."""
    x, weight, labels, grad = case(5, 8, 12, 12, torch.float32)
    _, _, weight_grad = wanted(x, weight, labels, grad, 12)
    weight.requires_grad_()
    weight.grad_added_to_main_grad = False
    weight.main_grad = torch.zeros(weight.shape)
    linear_cross_entropy(x, weight, labels, 0, 12, None, main_grad=weight.main_grad).backward(grad)
    assert weight.grad_added_to_main_grad
    assert weight.grad is not None
    close((weight.main_grad,), (weight_grad,), 1e-5)


def test_many_chunks_lose_nothing() -> None:
    """Of 256 chunks that each add little, a sum in bf16 would lose much."""
    x, weight, labels, grad = case(512, 8, 16, 16, torch.bfloat16)
    weight.requires_grad_()
    found = []
    for chunk in (2, 512):
        linear_cross_entropy(x, weight, labels, 0, 16, None, chunk=chunk).backward(grad)
        found.append(weight.grad)
        weight.grad = None
    torch.testing.assert_close(found[0], found[1], atol=1e-3, rtol=2**-7)


@pytest.mark.parametrize(("of_hidden", "of_weight"), [(True, False), (False, True)])
def test_frozen_inputs_cost_nothing(device: str, of_hidden: bool, of_weight: bool) -> None:
    x, weight, labels, grad = case(6, 8, 20, 20, torch.float32, device)
    x_grad, weight_grad = wanted(x, weight, labels, grad, 20)[1:]
    main_grad = torch.zeros_like(weight)
    x.requires_grad_(of_hidden)
    weight.requires_grad_(of_weight)
    linear_cross_entropy(x, weight, labels, 0, 20, None, chunk=4, main_grad=main_grad).backward(grad)
    if of_hidden:
        close((x.grad,), (x_grad,), 1e-5)
        assert not main_grad.any()
    else:
        assert x.grad is None
        close((main_grad,), (weight_grad,), 1e-5)


def test_not_contiguous(device: str) -> None:
    wide, weight, labels, grad = case(9, 24, 30, 30, torch.float32, device)
    for x, w in ((wide[:, ::2], weight[:, ::2]), (wide.t()[:9, :9].t(), weight[:, :9])):
        needed = wanted(x, w, labels, grad, 30)
        x_leaf, w_leaf = x.detach().requires_grad_(), w.detach().requires_grad_()
        loss = linear_cross_entropy(x_leaf, w_leaf, labels, 0, 30, None, chunk=4)
        loss.backward(grad)
        close((loss.detach(), x_leaf.grad, w_leaf.grad), needed, 1e-5)


def test_gradient_is_exact(device: str) -> None:
    """gradcheck asks for several backward passes: each computes the logits anew, so none is spoilt."""
    x, weight, labels, _ = case(3, 2, 4, 3, torch.float64, device)
    mask = torch.tensor([1, 0, 1], device=device)

    def function(*inputs: torch.Tensor) -> torch.Tensor:
        return linear_cross_entropy(*inputs, labels, 0, 3, None, mask, 0.1, 2)

    assert torch.autograd.gradcheck(function, (x.requires_grad_(), weight.requires_grad_()))


class _Largest(TorchDispatchMode):
    """Bytes of the largest tensor that any operation gives back."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.nbytes)
        return out


def test_no_tensor_is_larger_than_a_chunk(device: str) -> None:
    """Of bf16 logits on a GPU; elsewhere of fp32, to which the products are widened."""
    tokens, hidden, columns, chunk = 32, 2, 1000, 8
    x, weight, labels, grad = case(tokens, hidden, columns, columns, torch.bfloat16, device)
    x.requires_grad_()
    weight.requires_grad_()
    with _Largest() as largest:
        linear_cross_entropy(x, weight, labels, 0, columns, None, chunk=chunk).backward(grad)
    assert largest.bytes == chunk * columns * (4 if device == "cpu" else 2)


@pytest.mark.distributed
def test_two_processes(run: Callable[..., Any]) -> None:
    """Both implementations over a split vocabulary: see the end of this file."""
    pytest.importorskip("triton")
    run([__file__], processes=2, timeout=120)


def on_two_ranks() -> None:
    """The gradient of hidden is a sum over the ranks, that of weight is each rank's own."""
    nccl = torch.cuda.device_count() > 1
    dist.init_process_group("nccl" if nccl else "gloo")
    rank = dist.get_rank()
    kernel_device = f"cuda:{rank if nccl else 0}" if DEVICE == "cuda" else "cpu"
    kernels, sizes = (False, True) if not nccl else (True,), ((160, 301), (16_000, 31_999), (16_000, 32_000))
    for kernel, (half, vocab_size) in product(kernels, sizes):
        x, weight, labels, grad = case(7, 16, 2 * half, vocab_size, torch.float32, kernel_device if kernel else "cpu")
        loss64, x64, weight64 = wanted(x, weight, labels, grad, vocab_size)
        rows = slice(rank * half, (rank + 1) * half)
        x.requires_grad_()
        mine = weight[rows].clone().requires_grad_()
        with forced_kernels() if kernel else nullcontext():
            loss = linear_cross_entropy(x, mine, labels, rank * half, vocab_size, dist.group.WORLD, chunk=4)
            loss.backward(grad)
        assert x.grad is not None
        dist.all_reduce(x.grad)
        close((loss.detach(), x.grad, mine.grad), (loss64, x64, weight64[rows]), 1e-5)
    dist.destroy_process_group()


if __name__ == "__main__":
    if "RANK" in os.environ:
        on_two_ranks()
    else:
        sys.exit(f"torchrun --nproc-per-node=2 {Path(__file__)}")
