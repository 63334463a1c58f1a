"""Tensor-parallel linears whose forward product and input gradient are computed in fp8; kernels/fp8.py says how."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear

from megatron_bielik.kernels.fp8 import Scaling, fp8_linear_forward, fp8_linear_input_gradient
from megatron_bielik.kernels.weight_gradient import accumulate_weight_gradient, mark_accumulated


class _Fp8Linear(torch.autograd.Function):
    """megatron-core's linear with overlapped communication (LinearWithGradAccumulationAndAsyncCommunication), in fp8."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        scaling: Scaling,
        compiled: bool,
        allreduce_dgrad: bool,
        sequence_parallel: bool,
        group: dist.ProcessGroup | None,
    ) -> torch.Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        ctx.main_grad = getattr(weight, "main_grad", None)
        ctx.options = scaling, compiled, bias is not None, allreduce_dgrad, sequence_parallel, group
        total = _gather(x, group)[0] if sequence_parallel else x
        out = fp8_linear_forward(total.flatten(0, 1), weight, scaling, compiled).unflatten(0, total.shape[:2])
        return out if bias is None else out + bias

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        scaling, compiled, has_bias, allreduce_dgrad, sequence_parallel, group = ctx.options
        needs_weight = ctx.needs_input_grad[1]
        gathering = None
        total = x
        if sequence_parallel and needs_weight:
            total, gathering = _gather(x, group, wait=False)
        flat = grad_output.flatten(0, 1)
        grad_x = fp8_linear_input_gradient(flat, weight, scaling, compiled).unflatten(0, grad_output.shape[:2])
        if gathering is not None:
            gathering.wait()
        # Both reductions run while the weight gradient is computed.
        reducing, reduced = None, grad_x
        if allreduce_dgrad:
            reducing = dist.all_reduce(grad_x, group=group, async_op=True)
        elif sequence_parallel:
            reduced = grad_x.new_empty((grad_x.size(0) // dist.get_world_size(group), *grad_x.shape[1:]))
            reducing = dist.reduce_scatter_tensor(reduced, grad_x, group=group, async_op=True)
        grad_weight = _weight_gradient(weight, ctx.main_grad, total, grad_output) if needs_weight else None
        grad_bias = flat.sum(0) if has_bias else None
        if reducing is not None:
            reducing.wait()
        return reduced, grad_weight, grad_bias, None, None, None, None, None


def _weight_gradient(
    weight: torch.Tensor, main_grad: torch.Tensor | None, x: torch.Tensor, grad_output: torch.Tensor
) -> torch.Tensor:
    """Into the buffer where there is one."""
    if main_grad is None:
        return grad_output.flatten(0, 1).t() @ x.flatten(0, 1)
    accumulate_weight_gradient(main_grad, x, grad_output)
    weight.main_grad = main_grad
    return mark_accumulated(weight)


def _gather(x: torch.Tensor, group: dist.ProcessGroup, wait: bool = True) -> tuple[torch.Tensor, dist.Work | None]:
    """The whole sequence from its parts [tokens / tp, 1, width]."""
    total = x.new_empty((x.size(0) * dist.get_world_size(group), *x.shape[1:]))
    work = dist.all_gather_into_tensor(total, x.contiguous(), group=group, async_op=not wait)
    return total, work


class _Fp8:
    """Puts the fp8 product into a megatron-core linear, by the door it has for that."""

    def __init__(self, *arguments: Any, scaling: Scaling, compiled: bool, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._how = scaling, compiled

    def _forward_impl(
        self,
        input: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        allreduce_dgrad: bool,
        sequence_parallel: bool,
        tp_group: dist.ProcessGroup | None,
        **unused: Any,
    ) -> torch.Tensor:
        return _Fp8Linear.apply(input, weight, bias, *self._how, allreduce_dgrad, sequence_parallel, tp_group)


class Fp8ColumnParallelLinear(_Fp8, ColumnParallelLinear):
    """megatron-core's linear split by outputs; `scaling` is tensorwise or rowwise."""


class Fp8RowParallelLinear(_Fp8, RowParallelLinear):
    """megatron-core's linear split by inputs; `scaling` is tensorwise or rowwise."""
