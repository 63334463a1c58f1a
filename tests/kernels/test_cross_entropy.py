"""Cross-entropy over a padded or split vocabulary against the float64 definition: values, gradients, memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from megatron_bielik.kernels import cross_entropy
from megatron_bielik.kernels.cross_entropy import cross_entropy_reference, vocab_parallel_cross_entropy

DTYPES = [(torch.float32, 2e-6), (torch.bfloat16, 4e-3)]  # gradients are rounded to the type of the logits


def definition(logits: torch.Tensor, labels: torch.Tensor, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss [tokens] = log sum exp(z) - z_label, and grad * (softmax(z) - one-hot), in float64."""
    z = logits.detach().double()
    loss = z.logsumexp(-1) - z[torch.arange(len(z)), labels]
    return loss, grad.double()[:, None] * (z.softmax(-1) - F.one_hot(labels, z.size(-1)))


def ours(logits: torch.Tensor, labels: torch.Tensor, grad: torch.Tensor, vocab_size: int) -> tuple[Any, Any]:
    leaf = logits.detach().requires_grad_()
    loss = vocab_parallel_cross_entropy(leaf, labels, 0, vocab_size, None)
    loss.backward(grad)
    return loss.detach(), leaf.grad


def case(tokens: int, columns: int, vocab_size: int, dtype: torch.dtype, scale: float = 3.0) -> Any:
    generator = torch.Generator().manual_seed(tokens + columns)
    logits = (scale * torch.randn(tokens, columns, generator=generator)).to(dtype)
    return logits, torch.randint(vocab_size, (tokens,), generator=generator), torch.rand(tokens, generator=generator)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize(("tokens", "vocabulary"), [(1, 1), (13, 1001), (5, 7), (0, 33)])
def test_against_the_definition(tokens: int, vocabulary: int, dtype: torch.dtype, tolerance: float) -> None:
    logits, labels, grad = case(tokens, vocabulary, vocabulary, dtype)
    loss, gradient = ours(logits, labels, grad, vocabulary)
    wanted, wanted_gradient = definition(logits, labels, grad)
    assert loss.dtype == torch.float32
    assert gradient.dtype == dtype
    torch.testing.assert_close(loss.double(), wanted, atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(gradient.double(), wanted_gradient, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(cross_entropy_reference(logits, labels).double(), wanted, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("padding_value", [0.0, 50.0, 1e30, torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_padding_has_no_probability_and_no_gradient(dtype: torch.dtype, tolerance: float, padding_value: float) -> None:
    """Whatever stands in the columns beyond the vocabulary."""
    logits, labels, grad = case(11, 130, 101, dtype)
    logits[:, 101:] = padding_value
    loss, gradient = ours(logits, labels, grad, 101)
    wanted, wanted_gradient = definition(logits[:, :101], labels, grad)
    torch.testing.assert_close(loss.double(), wanted, atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(gradient[:, :101].double(), wanted_gradient, atol=tolerance, rtol=tolerance)
    assert not gradient[:, 101:].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_logits(dtype: torch.dtype) -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [1e4, 1e4, 1e4], [3e38, 0.0, 0.0]]).to(dtype)
    labels, grad = torch.tensor([1, 0, 2, 0]), torch.ones(4)
    loss, gradient = ours(logits, labels, grad, 3)
    wanted, wanted_gradient = definition(logits, labels, grad)
    assert loss.isfinite().all()
    torch.testing.assert_close(loss.double(), wanted)
    torch.testing.assert_close(gradient.double(), wanted_gradient, atol=4e-3, rtol=4e-3)


def test_a_certain_answer_costs_nothing() -> None:
    loss, gradient = ours(torch.tensor([[200.0, 0.0, -5.0]]), torch.tensor([0]), torch.ones(1), 3)
    assert loss.item() == 0
    assert not gradient.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_callers_logits_stay_as_they_are(dtype: torch.dtype) -> None:
    logits, labels, grad = case(6, 40, 33, dtype)
    kept = logits.clone()
    ours(logits, labels, grad, 33)
    assert torch.equal(logits, kept)


def test_not_contiguous() -> None:
    logits, labels, grad = case(40, 9, 9, torch.float32)
    labels, grad = labels[:9] % 40, grad[:9]
    found = ours(logits.T, labels, grad, 40)
    for value, wanted in zip(found, definition(logits.T, labels, grad), strict=True):
        torch.testing.assert_close(value.double(), wanted, atol=1e-5, rtol=1e-5)


def test_a_second_backward_fails_instead_of_lying() -> None:
    """The softmax is overwritten by the gradient, so autograd must refuse to use it again."""
    logits = torch.randn(3, 5, requires_grad=True)
    loss = vocab_parallel_cross_entropy(logits, torch.tensor([0, 1, 2]), 0, 5, None).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_forward_pass_holds_one_fp32_copy(dtype: torch.dtype) -> None:
    """training/memory.py plans with this; padding or a type conversion must not cost another copy."""
    tokens, columns = 64, 8200
    logits, labels, _ = case(tokens, columns, 8000, dtype)
    logits.requires_grad_()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        vocab_parallel_cross_entropy(logits, labels, 0, 8000, None)
    held = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    assert 4 * tokens * columns <= peak <= 1.05 * 4 * tokens * columns


class _Ranks:
    """torch.distributed for threads of this process: reductions over as many ranks as there are threads."""

    ReduceOp = dist.ReduceOp

    def __init__(self, ranks: int) -> None:
        self._ranks = ranks
        self._rank = threading.local()
        self._parts: list[torch.Tensor] = [torch.empty(0)] * ranks
        self._barrier = threading.Barrier(ranks, timeout=20)

    def get_world_size(self, group: Any) -> int:
        return self._ranks

    def all_reduce(self, tensor: torch.Tensor, op: Any = dist.ReduceOp.SUM, group: Any = None) -> None:
        self._parts[self._rank.value] = tensor.clone()
        self._barrier.wait()
        stacked = torch.stack(self._parts)
        self._barrier.wait()
        tensor.copy_(stacked.amax(0) if op == dist.ReduceOp.MAX else stacked.sum(0))

    def run(self, work: Callable[[int], None]) -> None:
        def on_rank(rank: int) -> None:
            self._rank.value = rank
            work(rank)

        with ThreadPoolExecutor(self._ranks) as pool:
            for done in [pool.submit(on_rank, rank) for rank in range(self._ranks)]:
                done.result(timeout=30)


@pytest.mark.parametrize(("ranks", "columns"), [(2, 64), (3, 50)])  # (3, 50): the last rank has padding only
def test_split_over_ranks(ranks: int, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    vocab_size = 99
    logits, labels, grad = case(17, ranks * columns, vocab_size, torch.float32)
    wanted, wanted_gradient = definition(logits[:, :vocab_size], labels, grad)
    wanted_gradient = F.pad(wanted_gradient, (0, ranks * columns - vocab_size))
    group = _Ranks(ranks)
    monkeypatch.setattr(cross_entropy, "dist", group)
    found: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def work(rank: int) -> None:
        part = logits[:, rank * columns : (rank + 1) * columns].clone().requires_grad_()
        some_group: Any = "of the threads"
        loss = vocab_parallel_cross_entropy(part, labels, rank * columns, vocab_size, some_group)
        loss.backward(grad)
        assert part.grad is not None
        found[rank] = (loss.detach(), part.grad)

    group.run(work)
    for loss, _ in found.values():
        torch.testing.assert_close(loss.double(), wanted, atol=1e-5, rtol=1e-6)
    whole = torch.cat([found[rank][1] for rank in range(ranks)], dim=1)
    torch.testing.assert_close(whole.double(), wanted_gradient, atol=2e-6, rtol=1e-5)
