"""Cross-entropy over a padded or split vocabulary against the float64 definition: values, gradients, masks, memory."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from megatron_bielik.kernels import cross_entropy
from megatron_bielik.kernels.cross_entropy import cross_entropy_reference, vocab_parallel_cross_entropy
from megatron_bielik.kernels.dispatch import forced_kernels

if TYPE_CHECKING:
    from tests.kernels.hopper import Compiled

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
VOCABULARIES = (31_999, 32_000)
# Gradients are rounded to the type of the logits. Triton's interpreter cuts off where a GPU rounds to the nearest.
DTYPES = [(torch.float32, 1e-5), (torch.bfloat16, 2**-7)]


def definition(
    logits: torch.Tensor,
    labels: torch.Tensor,
    grad: torch.Tensor,
    mask: torch.Tensor | None = None,
    z_loss: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss [tokens] = lse - z_label + z_loss lse^2, grad * (softmax(z) (1 + 2 z_loss lse) - one-hot), in float64."""
    z, grad = logits.detach().double(), grad.double()
    if mask is not None:
        z, labels, grad = z.masked_fill((mask == 0)[:, None], 0), labels.masked_fill(mask == 0, 0), grad * (mask != 0)
    lse = z.logsumexp(-1)
    loss = lse - z[torch.arange(len(z)), labels] + z_loss * lse**2
    loss = loss if mask is None else loss * (mask != 0)
    one_hot = F.one_hot(labels, z.size(-1))
    return loss, grad[:, None] * (z.softmax(-1) * (1 + 2 * z_loss * lse)[:, None] - one_hot)


def ours(
    logits: torch.Tensor, labels: torch.Tensor, grad: torch.Tensor, vocab_size: int, *options: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = logits.detach().requires_grad_()
    # The kernel writes over what it is given: here never the caller's.
    given = torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device=leaf.device).copy_(leaf)
    loss = vocab_parallel_cross_entropy(given, labels, 0, vocab_size, None, *options)
    loss.backward(grad)
    assert leaf.grad is not None
    return loss.detach(), leaf.grad


def case(tokens: int, columns: int, vocab_size: int, dtype: torch.dtype, device: str = "cpu") -> Any:
    generator = torch.Generator().manual_seed(tokens + columns)
    logits = (3 * torch.randn(tokens, columns, generator=generator)).to(dtype)
    labels = torch.randint(vocab_size, (tokens,), generator=generator)
    return logits.to(device), labels.to(device), torch.rand(tokens, generator=generator).to(device)


def close(
    found: tuple[torch.Tensor, torch.Tensor], wanted: tuple[torch.Tensor, torch.Tensor], tolerance: float
) -> None:
    torch.testing.assert_close(found[0].double(), wanted[0].to(found[0].device), atol=4e-6, rtol=1e-6)
    torch.testing.assert_close(found[1].double(), wanted[1].to(found[1].device), atol=2e-7, rtol=tolerance)


SIZES = [(1, 1), (13, 1001), (5, 7), (0, 33), (100, 4000)]
WIDE_BLOCK = 16_384
MATRIX = [
    pytest.param(tokens, vocabulary, marks=() if tokens == 7 else pytest.mark.full)
    for tokens, vocabulary in product((1, 7, 1000), VOCABULARIES)
]


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize(("tokens", "vocabulary"), [*SIZES, *MATRIX])
def test_against_the_definition(
    device: str, tokens: int, vocabulary: int, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    if DEVICE == "cpu" and tokens == 1000:  # the interpreter takes milliseconds for a block, however wide
        monkeypatch.setattr(cross_entropy, "FORWARD_BLOCK", WIDE_BLOCK)
        monkeypatch.setattr(cross_entropy, "BACKWARD_BLOCK", WIDE_BLOCK)
    logits, labels, grad = case(tokens, vocabulary, vocabulary, dtype, device)
    mask = torch.arange(tokens, device=device) % 3 != 1 if vocabulary >= 4000 else None
    loss, gradient = ours(logits, labels, grad, vocabulary, mask)
    assert loss.dtype == torch.float32
    assert gradient.dtype == dtype
    wanted = definition(logits, labels, grad, mask)
    close((loss, gradient), wanted, tolerance)
    if mask is not None:
        assert not loss[mask == 0].any()
        assert not gradient[mask == 0].any()
    torch.testing.assert_close(cross_entropy_reference(logits, labels, mask).double(), wanted[0], atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("padding_value", [0.0, 50.0, 1e30, torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_padding_has_no_probability_and_no_gradient(
    device: str, dtype: torch.dtype, tolerance: float, padding_value: float
) -> None:
    """Whatever stands in the columns beyond the vocabulary."""
    logits, labels, grad = case(11, 130, 101, dtype, device)
    logits[:, 101:] = padding_value
    loss, gradient = ours(logits, labels, grad, 101)
    close((loss, gradient[:, :101]), definition(logits[:, :101], labels, grad), tolerance)
    assert not gradient[:, 101:].any()


@pytest.mark.parametrize("mask_dtype", [torch.float32, torch.bool, torch.int64])
@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_masked_tokens_cost_nothing(device: str, dtype: torch.dtype, tolerance: float, mask_dtype: torch.dtype) -> None:
    """Exactly nothing, whatever their logits, labels and incoming gradients are."""
    logits, labels, grad = case(9, 130, 101, dtype, device)
    mask = torch.tensor([1, 0, 1, 0, 0, 1, 1, 0, 1], device=device).to(mask_dtype)
    wanted = definition(logits[:, :101], labels, grad, mask, 1e-2)
    logits[1], logits[3, 5], logits[4, 7] = torch.nan, torch.inf, -torch.inf
    labels[1], labels[3], labels[7] = -100, 10**6, 120
    grad[4] = torch.nan
    loss, gradient = ours(logits, labels, grad, 101, mask, 1e-2)
    close((loss, gradient[:, :101]), wanted, tolerance)
    assert not loss[mask == 0].any()
    assert not gradient[mask == 0].any()
    close((cross_entropy_reference(logits[:, :101], labels, mask, 1e-2), wanted[1]), wanted, tolerance)


@pytest.mark.parametrize("z_loss", [0.0, 1e-4, 0.5])
def test_z_loss(device: str, z_loss: float) -> None:
    logits, labels, grad = case(6, 77, 77, torch.float32, device)
    close(ours(logits, labels, grad, 77, None, z_loss), definition(logits, labels, grad, None, z_loss), 1e-5)


def test_a_label_outside_of_the_vocabulary_is_seen(device: str) -> None:
    logits, labels, grad = case(4, 40, 33, torch.float32, device)
    labels[1], labels[2], labels[3] = -1, 33, 40
    loss, _ = ours(logits, labels, grad, 33)
    assert loss.isinf().tolist() == [False, True, True, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_logits(device: str, dtype: torch.dtype) -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [1e4, 1e4, 1e4], [3e38, 0.0, 0.0]]).to(device, dtype)
    labels, grad = torch.tensor([1, 0, 2, 0], device=device), torch.ones(4, device=device)
    loss, gradient = ours(logits, labels, grad, 3)
    wanted, wanted_gradient = definition(logits, labels, grad)
    assert loss.isfinite().all()
    torch.testing.assert_close(loss.double(), wanted)
    torch.testing.assert_close(gradient.double(), wanted_gradient, atol=4e-3, rtol=4e-3)


def test_a_certain_answer_costs_nothing(device: str) -> None:
    one = torch.ones(1, device=device)
    loss, gradient = ours(torch.tensor([[200.0, 0.0, -5.0]], device=device), torch.zeros_like(one).long(), one, 3)
    assert loss.item() == 0
    assert not gradient.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_callers_logits(device: str, dtype: torch.dtype) -> None:
    """The definition leaves them as they are; the kernel's gradient stands in their place, masked or not."""
    leaf, labels, grad = case(6, 40, 33, dtype, device)
    leaf.requires_grad_()
    logits = leaf.clone()
    loss = vocab_parallel_cross_entropy(logits, labels, 0, 33, None, torch.tensor([1, 1, 0, 1, 0, 1], device=device))
    assert torch.equal(logits, leaf)
    loss.backward(grad)
    assert leaf.grad is not None
    assert torch.equal(logits, leaf.grad if cross_entropy.use_kernels(logits) else leaf)


def test_not_contiguous(device: str) -> None:
    logits, labels, grad = case(40, 9, 9, torch.float32, device)
    labels, grad = labels[:9] % 40, grad[:9]
    close(ours(logits.T, labels, grad, 40), definition(logits.T, labels, grad), 1e-5)
    gaps = case(9, 96, 96, torch.bfloat16, device)[0][:, 5:72]
    close(ours(gaps, labels, grad, 67), definition(gaps, labels, grad), 2**-7)
    twice = torch.stack((labels, labels), 1)[:, 0]
    close(ours(gaps, twice, grad[:1].expand(9), 67), definition(gaps, labels, grad[:1].expand(9)), 2**-7)


def test_a_second_backward_fails_or_is_right(device: str) -> None:
    """Where the gradient has overwritten the logits it must not be computed from itself."""
    logits, labels, grad = case(3, 5, 5, torch.float32, device)
    leaf = logits.clone().requires_grad_()
    loss = vocab_parallel_cross_entropy(leaf.clone(), labels, 0, 5, None)
    loss.backward(grad, retain_graph=True)
    if cross_entropy.use_kernels(leaf):
        with pytest.raises(RuntimeError, match="second backward"):
            loss.backward(grad)
    else:
        loss.backward(grad)
        assert leaf.grad is not None
        torch.testing.assert_close(leaf.grad.double(), 2 * definition(logits, labels, grad)[1], atol=1e-6, rtol=1e-5)


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


def test_gradient_is_exact(device: str) -> None:
    """In float64: gradcheck where backward leaves the logits alone, there and elsewhere the definition's own gradient."""
    logits, labels, grad = case(4, 12, 10, torch.float64, device)
    mask = torch.tensor([1, 0, 1, 1], device=device)
    loss, gradient = ours(logits, labels, grad.double(), 10, mask, 0.1)
    leaf = logits.clone().requires_grad_()
    wanted = cross_entropy_reference(leaf[:, :10], labels, mask, 0.1)
    wanted.backward(grad.double())
    torch.testing.assert_close((loss, gradient), (wanted.detach(), leaf.grad), atol=1e-12, rtol=1e-12)
    if not cross_entropy.use_kernels(logits):

        def function(z: torch.Tensor) -> torch.Tensor:
            return vocab_parallel_cross_entropy(z, labels, 0, 10, None, mask, 0.1)

        assert torch.autograd.gradcheck(function, (leaf,))


class _Ranks:
    """torch.distributed for threads of this process: gathers from as many ranks as there are threads."""

    def __init__(self, ranks: int) -> None:
        self._ranks = ranks
        self._rank = threading.local()
        self._parts: list[torch.Tensor] = [torch.empty(0)] * ranks
        self._barrier = threading.Barrier(ranks, timeout=20)

    def get_world_size(self, group: Any) -> int:
        return self._ranks

    def all_gather_into_tensor(self, output: torch.Tensor, tensor: torch.Tensor, group: Any = None) -> None:
        self._parts[self._rank.value] = tensor
        self._barrier.wait()
        output.copy_(torch.cat(self._parts))
        self._barrier.wait()

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
    whole = torch.cat([found[rank][1] for rank in range(ranks)], dim=1)
    for loss, _ in found.values():
        close((loss, whole), (wanted, wanted_gradient), 1e-5)


@pytest.mark.distributed
@pytest.mark.timeout(600)  # the full case takes minutes
@pytest.mark.parametrize("tokens", [[7], pytest.param([1, 1000], marks=pytest.mark.full)])
def test_two_processes(run: Callable[..., Any], tokens: list[int]) -> None:
    """Both implementations with torch.distributed itself: see the end of this file."""
    pytest.importorskip("triton")
    run([__file__, *map(str, tokens)], processes=2, timeout=580)


def on_two_ranks(tokens: int) -> None:
    """31,999 and 32,000 tokens of vocabulary in 32,000 columns, and a vocabulary that the first rank holds alone."""
    nccl = torch.cuda.device_count() > 1
    rank, group, half = dist.get_rank(), dist.group.WORLD, 16_000
    kernel_device = f"cuda:{rank if nccl else 0}" if DEVICE == "cuda" else "cpu"
    if DEVICE == "cpu" and tokens == 1000:
        cross_entropy.FORWARD_BLOCK = cross_entropy.BACKWARD_BLOCK = WIDE_BLOCK
    kernels = (False, True) if not nccl else (True,)
    vocabularies = VOCABULARIES if tokens == 1000 else (*VOCABULARIES, 15_000)
    for kernel, vocab_size, (dtype, tolerance) in product(kernels, vocabularies, DTYPES):
        logits, labels, grad = case(tokens, 2 * half, vocab_size, dtype, kernel_device if kernel else "cpu")
        mask = torch.arange(tokens, device=logits.device) % 3 != 1
        mine = slice(rank * half, (rank + 1) * half)
        wanted, wanted_gradient = definition(logits[:, :vocab_size], labels, grad, mask, 1e-3)
        wanted_gradient = F.pad(wanted_gradient, (0, 2 * half - vocab_size))[:, mine]
        leaf = logits[:, mine].clone().requires_grad_()
        with forced_kernels() if kernel else nullcontext():
            loss = vocab_parallel_cross_entropy(leaf.clone(), labels, rank * half, vocab_size, group, mask, 1e-3)
            loss.backward(grad)
        assert leaf.grad is not None
        close((loss.detach(), leaf.grad), (wanted, wanted_gradient), tolerance)
        assert not leaf.grad[~mask].any()


def launches() -> Iterator[tuple[str, Callable[[], None]]]:
    """For hopper.py: production sizes."""

    def launch(columns: int, vocab_size: int, mask: torch.Tensor | None) -> Callable[[], None]:
        def call() -> None:
            logits = torch.empty(8192, columns, dtype=torch.bfloat16, requires_grad=True)
            labels = torch.zeros(8192, dtype=torch.int64)
            vocab_parallel_cross_entropy(logits, labels, 0, vocab_size, None, mask, 1e-4).backward(torch.ones(8192))

        return call

    yield "32000", launch(32_000, 31_999, None)
    yield "16000 masked", launch(16_000, 16_000, torch.ones(8192))
    yield "31999", launch(31_999, 31_999, None)


def test_compiles_for_hopper(compiled: list[Compiled]) -> None:
    by_case = {(found.case, found.kernel): found for found in compiled}
    cases, kernels = ("32000", "16000 masked", "31999"), ("_cross_entropy_forward", "_cross_entropy_backward")
    assert set(by_case) == {(case, kernel) for case in cases for kernel in kernels}
    for (name, _), found in by_case.items():
        assert found.spilled_bytes == 0
        if name != "31999":  # rows of which most begin at an odd address
            # Forward reads 8192 logits with 256 threads at a time, backward 4096; what else there is belongs to a row:
            # mask, label, its logit, log-sum-exp, gradient of the loss, the two statistics.
            wide = [width for width in found.widths if width == 16]
            assert len(wide) >= 4
            assert len(found.widths) - len(wide) <= 5
            assert found.registers <= 64  # four programs of 256 threads on a multiprocessor


if __name__ == "__main__":
    if "RANK" in os.environ:
        dist.init_process_group("nccl" if torch.cuda.device_count() > 1 else "gloo")
        for argument in sys.argv[1:]:
            on_two_ranks(int(argument))
        dist.destroy_process_group()
    else:
        sys.exit(f"torchrun --nproc-per-node=2 {Path(__file__)} TOKENS...")
