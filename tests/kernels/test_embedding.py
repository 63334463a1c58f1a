"""The embedding's gradient against sums in float64, and the same bits in every call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
import torch

from megatron_bielik.kernels import embedding as module
from megatron_bielik.kernels.embedding import accumulate_embedding_gradient

if TYPE_CHECKING:
    from tests.kernels.hopper import Compiled

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.bfloat16]
MATRIX = [
    pytest.param(
        tokens, hidden, dtype, marks=() if tokens == 7 or (tokens, hidden) == (1000, 1536) else pytest.mark.full
    )
    for tokens, hidden, dtype in product((1, 7, 1000), (1536, 2048, 2056), DTYPES)
]


def inputs(tokens: int, hidden: int, rows: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A buffer with something in it, gradients, and ids of which some lie outside and one is frequent."""
    generator = torch.Generator().manual_seed(tokens + hidden)
    buffer, grad = (torch.randn(count, hidden, generator=generator) for count in (rows, tokens))
    ids = torch.randint(-5, rows + 5, (tokens,), generator=generator)
    ids[torch.rand(tokens, generator=generator) < 0.4] = rows - 1
    return buffer.to(DEVICE), grad.to(DEVICE, dtype), ids.to(DEVICE)


def formula(buffer: torch.Tensor, grad: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """One-hot^T grad, in float64."""
    one_hot = ids[:, None] == torch.arange(len(buffer), device=ids.device)
    return buffer.double() + one_hot.double().T @ grad.double()


SIZES = [(1, 33), (7, 1), (0, 16), (1000, 8)]


@pytest.mark.parametrize(
    ("tokens", "hidden", "dtype"), [*((*size, dtype) for size, dtype in product(SIZES, DTYPES)), *MATRIX]
)
def test_against_the_formula(
    implementation: str, tokens: int, hidden: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    if DEVICE == "cpu" and tokens == 1000:  # the interpreter takes a millisecond for a program, however wide
        monkeypatch.setattr(module, "COLUMNS", 2048)
    buffer, grad, ids = inputs(tokens, hidden, 50, dtype)
    wanted = formula(buffer, grad, ids)
    accumulate_embedding_gradient(buffer, grad, ids)
    torch.testing.assert_close(buffer.double(), wanted, atol=1e-6 * (1 + tokens), rtol=1e-6)


def test_float64_is_exact(implementation: str) -> None:
    buffer, grad, ids = inputs(60, 20, 9, torch.float64)
    buffer = buffer.double()
    wanted = formula(buffer, grad, ids)
    accumulate_embedding_gradient(buffer, grad, ids)
    torch.testing.assert_close(buffer, wanted, atol=1e-13, rtol=1e-13)


def test_later_sums_add_to_earlier_ones(implementation: str) -> None:
    """Micro-batches of one step."""
    buffer, grad, ids = inputs(40, 24, 9, torch.bfloat16)
    wanted = formula(formula(buffer, grad, ids), 2 * grad, ids)
    accumulate_embedding_gradient(buffer, grad, ids)
    accumulate_embedding_gradient(buffer, 2 * grad, ids)
    torch.testing.assert_close(buffer.double(), wanted, atol=1e-4, rtol=1e-6)


def test_one_id_for_all(implementation: str) -> None:
    buffer, grad, _ = inputs(777, 40, 5, torch.bfloat16)
    ids = torch.full((777,), 3, device=DEVICE)
    wanted, untouched = formula(buffer, grad, ids), buffer.clone()
    accumulate_embedding_gradient(buffer, grad, ids)
    torch.testing.assert_close(buffer.double(), wanted, atol=1e-4, rtol=1e-6)
    assert torch.equal(buffer[[0, 1, 2, 4]], untouched[[0, 1, 2, 4]])


@pytest.mark.parametrize("first", [-100, 5])
def test_rows_of_other_ranks(implementation: str, first: int) -> None:
    """All below the first row, or all from the last one on."""
    buffer, grad, _ = inputs(30, 40, 5, torch.bfloat16)
    kept = buffer.clone()
    accumulate_embedding_gradient(buffer, grad, first + torch.arange(30, device=DEVICE))
    assert torch.equal(buffer, kept)


def test_not_contiguous(implementation: str) -> None:
    buffer, grad, ids = inputs(30, 40, 9, torch.float32)
    for view in (grad[:, ::2], grad[:, :20], grad[:1, :20].expand(30, 20)):
        inner, own_ids = buffer[:, :20], ids.repeat_interleave(2)[::2]
        wanted, outside = formula(inner, view, own_ids), buffer[:, 20:].clone()
        accumulate_embedding_gradient(inner, view, own_ids)
        torch.testing.assert_close(inner.double(), wanted, atol=1e-5, rtol=1e-6)
        assert torch.equal(buffer[:, 20:], outside)


def test_the_same_bits_again(implementation: str) -> None:
    buffer, grad, ids = inputs(500, 64, 7, torch.bfloat16)
    again = buffer.clone()
    accumulate_embedding_gradient(buffer, grad, ids)
    accumulate_embedding_gradient(again, grad, ids)
    assert torch.equal(buffer, again)


def launches() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Production sizes, for hopper.py."""
    for hidden in (1536, 2048, 2056):
        buffer, grad, ids = inputs(4096, hidden, 1000, torch.bfloat16)
        yield f"{hidden}", lambda b=buffer, g=grad, i=ids: accumulate_embedding_gradient(b, g, i)


def test_compiles_for_hopper(compiled: list[Compiled]) -> None:
    """No spills; gradients and the buffer's fp32 are read 16 bytes at a time; ids and places take 8, ends of runs 4."""
    assert [kernel.kernel for kernel in compiled] == ["_accumulate"] * 3
    for kernel in compiled:
        assert kernel.spilled_bytes == 0, kernel
        assert sorted(kernel.widths) == [4, *[8] * 9, *[16] * 10], kernel
