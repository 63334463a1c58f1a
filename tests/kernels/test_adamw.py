"""AdamW over many tensors against torch.optim.AdamW in float64 and fp32, and the norm of many gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
import torch

from megatron_bielik.kernels import adamw as module
from megatron_bielik.kernels.adamw import MultiTensorAdamW, gradient_square_sum
from megatron_bielik.kernels.dispatch import use_kernels

if TYPE_CHECKING:
    from tests.kernels.hopper import Compiled

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZES = [1, 7, 1000, 4097, 0, 2048, 6150]
MATRIX = [1, 7, 1000, 4097, 1536 * 2056]
LR, BETA1, BETA2, EPS, DECAY = 3e-3, 0.9, 0.95, 1e-8, 0.1


def tensors(sizes: list[int], device: str, offset: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Zeros that begin `offset` elements into their storage."""
    return [torch.zeros(size + offset, dtype=dtype, device=device)[offset:] for size in sizes]


def written(master: torch.Tensor, kernel: bool) -> torch.Tensor:
    """What must stand in the bf16 weight: Triton's interpreter cuts off where a GPU rounds to the nearest."""
    if kernel and master.device.type == "cpu":
        master = (master.view(torch.int32) >> 16 << 16).view(torch.float32)
    return master.bfloat16()


@pytest.mark.parametrize("offset", [0, 1])  # 1: no address is a multiple of 16
@pytest.mark.parametrize("model", ["bf16", "itself", "none"])
@pytest.mark.parametrize("sizes", [SIZES, pytest.param(MATRIX, marks=pytest.mark.full)])
def test_five_steps_as_torch_makes_them(
    device: str, sizes: list[int], offset: int, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if DEVICE == "cpu" and sizes is MATRIX:  # the interpreter takes milliseconds for a program, however large
        monkeypatch.setattr(module, "CHUNK", 2**16)
    generator = torch.Generator().manual_seed(offset)
    params, grads, exp_avgs, exp_avg_sqs = (tensors(sizes, device, offset) for _ in range(4))
    for param in params:
        param.copy_(torch.randn(param.shape, generator=generator))
    model_params: list[torch.Tensor | None] = {
        "bf16": list(tensors(sizes, device, offset, torch.bfloat16)),
        "itself": list(params),
        "none": [None] * len(sizes),
    }[model]
    theirs = {}
    for dtype in (torch.float32, torch.float64):
        leaves = [param.to(dtype, copy=True).requires_grad_() for param in params]
        theirs[dtype] = torch.optim.AdamW(leaves, LR, (BETA1, BETA2), EPS, DECAY, foreach=False)
    ours = MultiTensorAdamW(params, grads, exp_avgs, exp_avg_sqs, model_params)
    # Among millions some means of gradients all but cancel: torch's own fp32 is as far from float64 there.
    smallest = 0.5 if sizes is MATRIX else 0.1
    for step in range(1, 6):
        scale = torch.tensor(1 / step, device=device)
        for number, grad in enumerate(grads):
            size = 10.0 ** torch.randint(-6, 2, grad.shape, generator=generator)
            grad.copy_(size * torch.randn(grad.shape, generator=generator))
            for dtype, optimizer in theirs.items():
                optimizer.param_groups[0]["params"][number].grad = grad.to(dtype) * scale
        for optimizer in theirs.values():
            optimizer.param_groups[0]["lr"] = LR / step
            optimizer.step()
        ours.step(LR / step, BETA1, BETA2, EPS, DECAY, step, scale)
        for dtype, tolerance in ((torch.float64, 2e-6), (torch.float32, 1e-6)):
            optimizer = theirs[dtype]
            for number, leaf in enumerate(optimizer.param_groups[0]["params"]):
                state = optimizer.state[leaf]
                wanted = (leaf.detach(), state["exp_avg"], state["exp_avg_sq"])
                for value, needed in zip((params, exp_avgs, exp_avg_sqs), wanted, strict=True):
                    torch.testing.assert_close(
                        value[number].to(dtype), needed, atol=tolerance * smallest, rtol=tolerance
                    )
        for param, weight in zip(params, model_params, strict=True):
            if model == "bf16":
                assert weight is not None
                assert torch.equal(weight, written(param, use_kernels(param)))


def test_neighbours_are_left_alone(device: str) -> None:
    """Tensors that are views of one buffer, as the optimizer's shards are: what lies between them stays."""
    buffers = [torch.full((6000,), value, device=device) for value in (7.0, 3.0, 7.0, 7.0)]
    weight = torch.full((6000,), 7.0, device=device, dtype=torch.bfloat16)
    inside = torch.zeros(6000, dtype=torch.bool)
    lists: list[list[torch.Tensor]] = [[] for _ in range(5)]
    for start, end in ((3, 10), (64, 64 + 2048), (2200, 5999)):
        inside[start:end] = True
        for views, buffer in zip(lists, (*buffers, weight), strict=True):
            views.append(buffer[start:end])
    MultiTensorAdamW(*lists).step(1.0, BETA1, BETA2, EPS, DECAY, 1, torch.ones((), device=device))
    for buffer in (buffers[0], buffers[2], buffers[3], weight):
        assert torch.equal((buffer != 7).cpu(), inside)
    assert torch.equal(buffers[1], torch.full_like(buffers[1], 3.0))  # gradients are read alone


def test_matches(device: str) -> None:
    lists = [tensors([5, 8], device, 0) for _ in range(5)]
    ours = MultiTensorAdamW(*lists)
    assert ours.matches(*lists)
    assert ours.matches(*[[tensor.view(-1) for tensor in some] for some in lists])
    for place in range(5):
        other = list(lists)
        other[place] = tensors([5, 8], device, 0)
        assert not ours.matches(*other)
    assert not ours.matches(*[some[:1] for some in lists])
    assert not ours.matches(*[[some[0][:4], some[1]] for some in lists])


def test_refuses_what_it_cannot_do(device: str) -> None:
    lists = [tensors([6, 4], device, 0) for _ in range(4)]
    with pytest.raises(ValueError, match="model_params"):
        MultiTensorAdamW(*lists, [torch.zeros(6, dtype=torch.bfloat16, device=device), None])
    lists[1] = [torch.zeros(12, device=device)[::2], lists[1][1]]
    with pytest.raises(ValueError, match="contiguous"):
        MultiTensorAdamW(*lists, [None, None])


def test_no_tensors(device: str) -> None:
    MultiTensorAdamW([], [], [], [], []).step(LR, BETA1, BETA2, EPS, DECAY, 1, torch.ones((), device=device))
    assert gradient_square_sum([]).item() == 0
    assert gradient_square_sum([torch.zeros(0, device=device)]).item() == 0


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("sizes", [[1, 7, 0, 40_000, 8192, 4097], pytest.param(MATRIX, marks=pytest.mark.full)])
def test_gradient_square_sum(device: str, sizes: list[int], offset: int) -> None:
    generator = torch.Generator().manual_seed(9)
    grads = tensors(sizes, device, offset)
    for _ in range(2):  # the second time in the same places
        for grad in grads:
            grad.copy_(10 * torch.randn(grad.shape, generator=generator))
        found = gradient_square_sum(grads)
        assert found.dtype == torch.float32
        assert found.shape == ()
        wanted = torch.cat([grad.double() for grad in grads]).square().sum()
        torch.testing.assert_close(found.double(), wanted, atol=0, rtol=1e-6)
        assert torch.equal(found, gradient_square_sum(grads))
    grads[3][4000] = torch.nan
    assert gradient_square_sum(grads).isnan()


def launches() -> Iterator[tuple[str, Callable[[], object]]]:
    """For hopper.py: one matrix and one norm's weight of a 1.5B model, and a shard that begins at an odd address."""

    def step(model_dtype: torch.dtype | None, sizes: list[int], offset: int) -> Callable[[], object]:
        def call() -> None:
            lists = [tensors(sizes, "cpu", offset) for _ in range(4)]
            model: list[torch.Tensor | None] = [None] * len(sizes)
            if model_dtype is not None:
                model = list(tensors(sizes, "cpu", offset, model_dtype))
            MultiTensorAdamW(*lists, model).step(LR, BETA1, BETA2, EPS, DECAY, 1, torch.ones(()))

        return call

    yield "whole", step(torch.bfloat16, [1536 * 2048], 0)
    yield "whole fp32", step(None, [1536 * 2048], 0)
    yield "ends", step(torch.bfloat16, [1536], 0)
    yield "unaligned", step(torch.bfloat16, [4096], 1)
    yield "whole sums", lambda: gradient_square_sum(tensors([1536 * 2048], "cpu", 0))
    yield "ends of sums", lambda: gradient_square_sum(tensors([1536], "cpu", 0))


def test_compiles_for_hopper(compiled: list[Compiled]) -> None:
    """Of every access in whole chunks those of elements have 16 bytes; besides them: addresses, 8, and numbers, 4."""
    by_case = {found.case: found for found in compiled}
    kernels = ["_adamw"] * 4 + ["_square_sums"] * 2
    names = ["whole", "whole fp32", "ends", "unaligned", "whole sums", "ends of sums"]
    assert {name: found.kernel for name, found in by_case.items()} == dict(zip(names, kernels, strict=True))
    assert not any(found.spilled_bytes for found in by_case.values())
    # Of 256 threads each has 8 elements of g, m, v, p to read and of m, v, p, w to write, or 32 to square.
    assert [by_case[name].widths.count(16) for name in ("whole", "whole fp32", "whole sums")] == [15, 14, 8]
    for name, scalars in (("whole", (8, 8)), ("whole fp32", (6, 8)), ("whole sums", (3, 1))):
        found = by_case[name]
        assert found.registers <= 64
        assert (found.widths.count(8), found.widths.count(4)) <= scalars
        assert set(found.widths) == {16, 8, 4}
