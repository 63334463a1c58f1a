"""AdamW over many tensors in one pass, with fp32 master weights written back in 16 bits; and the norm of many gradients.

    p <- p (1 - lr wd);  m <- m + (1 - b1) (g - m);  v <- b2 v + (1 - b2) g^2
    p <- p - lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)       (Loshchilov and Hutter, 2019; torch.optim.AdamW)

g is the gradient times a scale that stays on the device: clipping needs no pass of its own, and a scale of NaN leaves everything
as it is, so that the host need not wait to know whether a step is to be made. 30 bytes per parameter with
16-bit model weights: reads g, m, v, p; writes m, v, p and the weight. Tensors are found through a table of addresses, so
that any number of them is one launch, and one more for their ends.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch

from megatron_bielik.kernels.dispatch import tl, triton, use_kernels

CHUNK = 2048  # elements of one program of 256 threads: two vector loads a thread of each tensor
SUM_CHUNK = 8192
ALIGNMENT = 16  # bytes of one vector load


@triton.jit
def _pointer(address_ptr: tl.tensor, dtype: tl.constexpr, whole: tl.constexpr) -> tl.tensor:
    """A pointer from an address in the table; whole: it is a multiple of ALIGNMENT."""
    pointer = tl.load(address_ptr).to(tl.pointer_type(dtype))
    if whole:
        pointer = tl.multiple_of(pointer, 16)
    return pointer


@triton.jit
def _adamw(
    table_ptr: tl.tensor,
    programs_ptr: tl.tensor,
    numbers_ptr: tl.tensor,
    scale_ptr: tl.tensor,
    model_dtype: tl.constexpr,
    whole: tl.constexpr,
    chunk: tl.constexpr,
) -> None:
    """Program i updates chunk programs[i] = (tensor, start). table: [tensors, 6], addresses of g, m, v, p, w, and the size."""
    scale = tl.load(scale_ptr)
    if scale == scale:
        program = tl.program_id(0)
        entry = table_ptr + tl.load(programs_ptr + 2 * program) * 6
        place = tl.multiple_of(tl.load(programs_ptr + 2 * program + 1), 16) + tl.arange(0, chunk)
        inside = None if whole else place < tl.load(entry + 5)
        m_ptr = _pointer(entry + 1, tl.float32, whole) + place
        v_ptr = _pointer(entry + 2, tl.float32, whole) + place
        p_ptr = _pointer(entry + 3, tl.float32, whole) + place
        g = tl.load(_pointer(entry, tl.float32, whole) + place, mask=inside)
        m = tl.load(m_ptr, mask=inside)
        v = tl.load(v_ptr, mask=inside)
        p = tl.load(p_ptr, mask=inside)
        g *= scale
        m += (g - m) * tl.load(numbers_ptr + 1)
        v = v * tl.load(numbers_ptr + 2) + g * g * tl.load(numbers_ptr + 3)
        denominator = tl.sqrt_rn(v) / tl.load(numbers_ptr + 5) + tl.load(numbers_ptr + 6)
        p = p * tl.load(numbers_ptr) - tl.load(numbers_ptr + 4) * m / denominator
        tl.store(m_ptr, m, mask=inside)
        tl.store(v_ptr, v, mask=inside)
        tl.store(p_ptr, p, mask=inside)
        if model_dtype is not None:
            tl.store(_pointer(entry + 4, model_dtype, whole) + place, p.to(model_dtype), mask=inside)


@triton.jit
def _square_sums(
    table_ptr: tl.tensor, programs_ptr: tl.tensor, sums_ptr: tl.tensor, whole: tl.constexpr, chunk: tl.constexpr
) -> None:
    """Program i writes the sum of squares of chunk programs[i]. table: [tensors, 2], address and size."""
    program = tl.program_id(0)
    entry = table_ptr + tl.load(programs_ptr + 2 * program) * 2
    place = tl.multiple_of(tl.load(programs_ptr + 2 * program + 1), 16) + tl.arange(0, chunk)
    inside = None if whole else place < tl.load(entry + 1)
    g = tl.load(_pointer(entry, tl.float32, whole) + place, mask=inside, other=None if whole else 0.0)
    tl.store(sums_ptr + program, tl.sum(g * g, axis=0))


class _Table:
    """Addresses of the tensors of each row, and the chunks that programs work on.

    Chunks that are whole and whose tensors all begin at multiples of ALIGNMENT need no mask, whose end would split the vector
    loads; they are launched by themselves, the others after them.

    Args:
        rows: Addresses, and as the last number the elements of each of the tensors.
        device: Of the table.
        chunk: Elements of a program.
    """

    def __init__(self, rows: Sequence[tuple[int, ...]], device: torch.device, chunk: int) -> None:
        numbers = torch.tensor(rows, dtype=torch.int64)
        sizes, chunks = numbers[:, -1], -(-numbers[:, -1] // chunk)
        tensor = torch.repeat_interleave(chunks)
        start = (torch.arange(len(tensor)) - (chunks.cumsum(0) - chunks)[tensor]) * chunk
        aligned = (numbers[:, :-1] % ALIGNMENT == 0).all(1)
        whole = aligned[tensor] & (start + chunk <= sizes[tensor])
        programs = torch.stack((tensor, start), 1)
        self.entries = numbers.to(device)
        parts = ((True, programs[whole]), (False, programs[~whole]))
        self.launches = [(whole, some.to(device)) for whole, some in parts if len(some)]


def _addresses(columns: Sequence[Sequence[torch.Tensor | None]]) -> tuple[tuple[int, ...], ...]:
    """Where the tensors of each row begin, 0 for none; and the number of elements of the first."""
    rows = zip(*columns, strict=True)
    return tuple(
        (*(0 if t is None else t.data_ptr() for t in row), row[0].numel()) for row in rows if row[0] is not None
    )


class MultiTensorAdamW:
    """One AdamW step for many tensors.

    Args:
        params: fp32 master weights, contiguous.
        grads, exp_avgs, exp_avg_sqs: fp32, of the same sizes.
        model_params: 16-bit weights to be written, all of one dtype; none in every place where params are the weights.
    """

    def __init__(
        self,
        params: Sequence[torch.Tensor],
        grads: Sequence[torch.Tensor],
        exp_avgs: Sequence[torch.Tensor],
        exp_avg_sqs: Sequence[torch.Tensor],
        model_params: Sequence[torch.Tensor | None],
    ) -> None:
        pairs = zip(model_params, params, strict=True)
        written = [w for w, p in pairs if w is not None and (w.dtype, w.data_ptr()) != (p.dtype, p.data_ptr())]
        if written and (len(written) != len(params) or len({w.dtype for w in written}) > 1):
            raise ValueError("model_params: give tensors of one dtype in every place, or none")
        if any(t is not None and not t.is_contiguous() for t in (*params, *grads, *exp_avgs, *exp_avg_sqs, *written)):
            raise ValueError("MultiTensorAdamW: a tensor is not contiguous")
        self._lists = (list(grads), list(exp_avgs), list(exp_avg_sqs), list(params), written or [None] * len(params))
        self._model_dtype = written[0].dtype if written else None
        self._key = _addresses((grads, exp_avgs, exp_avg_sqs, params, model_params))
        kernels = bool(params) and use_kernels(params[0])
        self._table = _Table(_addresses(self._lists), params[0].device, CHUNK) if kernels else None

    def matches(
        self,
        params: Sequence[torch.Tensor],
        grads: Sequence[torch.Tensor],
        exp_avgs: Sequence[torch.Tensor],
        exp_avg_sqs: Sequence[torch.Tensor],
        model_params: Sequence[torch.Tensor | None],
    ) -> bool:
        """Whether these are still the tensors that were given at the start."""
        return _addresses((grads, exp_avgs, exp_avg_sqs, params, model_params)) == self._key

    @torch.no_grad()
    def step(
        self,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        step: int,
        grad_scale: torch.Tensor,
    ) -> None:
        """Update everything in place.

        Args:
            lr, beta1, beta2, eps, weight_decay: AdamW's.
            step: Number of this step, from 1.
            grad_scale: fp32 scalar on the device; multiplies the gradients. NaN: nothing is changed.
        """
        grads, exp_avgs, exp_avg_sqs, params, model_params = self._lists
        if not params:
            return
        step_size, root = lr / (1 - beta1**step), math.sqrt(1 - beta2**step)
        if self._table is not None:
            values = [1 - lr * weight_decay, 1 - beta1, beta2, 1 - beta2, step_size, root, eps]
            numbers = torch.tensor(values, dtype=torch.float32).to(params[0].device, non_blocking=True)
            dtype = None if self._model_dtype is None else getattr(tl, str(self._model_dtype).removeprefix("torch."))
            for whole, programs in self._table.launches:
                _adamw[(len(programs),)](
                    self._table.entries, programs, numbers, grad_scale, dtype, whole, CHUNK, num_warps=8
                )
            return
        if grad_scale.isnan():
            return
        scaled = torch._foreach_mul(grads, grad_scale)
        torch._foreach_mul_(params, 1 - lr * weight_decay)
        torch._foreach_lerp_(exp_avgs, scaled, 1 - beta1)
        torch._foreach_mul_(exp_avg_sqs, beta2)
        torch._foreach_addcmul_(exp_avg_sqs, scaled, scaled, 1 - beta2)
        denominators = torch._foreach_sqrt(exp_avg_sqs)
        torch._foreach_div_(denominators, root)
        torch._foreach_add_(denominators, eps)
        torch._foreach_addcdiv_(params, exp_avgs, denominators, -step_size)
        if self._model_dtype is not None:
            torch._foreach_copy_(model_params, params)


@functools.lru_cache(maxsize=8)
def _sum_table(rows: tuple[tuple[int, ...], ...], device: torch.device) -> _Table:
    """Gradients lie in the same places step after step."""
    return _Table(rows, device, SUM_CHUNK)


@torch.no_grad()
def gradient_square_sum(grads: Sequence[torch.Tensor]) -> torch.Tensor:
    """Sum of squares of all elements, an fp32 scalar on the device; every gradient is read once.

    Args:
        grads: fp32, contiguous, on one device; without any the sum is 0, on the CPU. Sums of chunks are added up in fp64,
            always in the same order.
    """
    if not grads:
        return torch.zeros(())
    if not use_kernels(grads[0]):
        return torch.stack(torch._foreach_norm(list(grads), 2, dtype=torch.float64)).square().sum().float()
    table = _sum_table(_addresses((grads,)), grads[0].device)
    parts = []
    for whole, programs in table.launches:
        sums = torch.empty(len(programs), dtype=torch.float32, device=grads[0].device)
        _square_sums[(len(programs),)](table.entries, programs, sums, whole, SUM_CHUNK, num_warps=8)
        parts.append(sums.sum(dtype=torch.float64))
    return torch.stack(parts).sum().float() if parts else torch.zeros((), device=grads[0].device)
