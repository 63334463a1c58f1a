"""Gradient buffers and AdamW over the model's chunks: megatron-core's DDP and distributed optimizer, fp32 throughout.

megatron-core splits and gathers; the arithmetic of the step is one pass over all shards (kernels/adamw.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.optimizer import MegatronOptimizer, get_megatron_optimizer
from megatron.core.optimizer import OptimizerConfig as MegatronOptimizerConfig

from megatron_bielik.config import Config, ParallelConfig
from megatron_bielik.kernels.adamw import MultiTensorAdamW, gradient_square_sum
from megatron_bielik.model.gpt import BielikModel
from megatron_bielik.model.transformer_config import PRECISIONS
from megatron_bielik.parallel.runtime import Runtime


def wrap_for_training(chunks: Sequence[BielikModel], parallel: ParallelConfig) -> list[DistributedDataParallel]:
    """Give each chunk its contiguous fp32 gradient buffer; parameters with requires_grad=False get none."""
    ddp = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=True,
        overlap_grad_reduce=parallel.overlap_grad_reduce,
        overlap_param_gather=parallel.overlap_param_gather,
    )
    wrapped = [
        DistributedDataParallel(chunk.config, ddp, chunk, disable_bucketing=number > 0)
        for number, chunk in enumerate(chunks)
    ]
    for chunk in wrapped:
        chunk.broadcast_params()
        chunk.config.finalize_model_grads_func = _sum_gradients
        # Gradients are summed over ranks with a step's last micro-batch only.
        chunk.config.no_sync_func = [each.no_sync for each in wrapped] if len(wrapped) > 1 else chunk.no_sync
    return wrapped


def _sum_gradients(model: list[torch.nn.Module], num_tokens: torch.Tensor, **options: Any) -> None:
    """megatron-core's sums over ranks, without its division by the number of tokens: the update makes that."""
    finalize_model_grads(model, None, **options)


def gather_weights(wrapped: Sequence[DistributedDataParallel]) -> None:
    """Make every rank's weights those of the last step, where the next forward pass would have collected them."""
    for chunk in wrapped:
        if chunk.ddp_config.overlap_param_gather:
            chunk.start_param_sync(force_sync=True)


def build_optimizer(wrapped: Sequence[DistributedDataParallel], config: Config, runtime: Runtime) -> MegatronOptimizer:
    """AdamW with fp32 master weights split over the data-parallel ranks; no decay on norms and biases.

    Both moments exist from the start, so that a checkpoint can be written before the first update.
    """
    options, dtype = config.optimizer, PRECISIONS[config.training.precision]
    with runtime.optimizer_construction():
        optimizer = get_megatron_optimizer(
            MegatronOptimizerConfig(
                optimizer="adam",
                lr=options.lr,
                min_lr=options.min_lr,
                weight_decay=options.weight_decay,
                adam_beta1=options.beta1,
                adam_beta2=options.beta2,
                adam_eps=options.epsilon,
                clip_grad=options.clip_grad,
                bf16=dtype is torch.bfloat16,
                params_dtype=dtype,
                use_distributed_optimizer=True,
                overlap_param_gather=config.parallel.overlap_param_gather,
            ),
            list(wrapped),
        )
    for part in optimizer.chained_optimizers:
        for group in part.param_groups:
            group["weight_decay"] = options.weight_decay * group["wd_mult"]
            for parameter in group["params"]:
                state = part.optimizer.state[parameter]
                state["step"] = torch.tensor(0.0)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
    return optimizer


def set_learning_rate(optimizer: MegatronOptimizer, lr: float) -> None:
    """Set the rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


@torch.no_grad()
def global_gradient_norm(optimizer: MegatronOptimizer) -> torch.Tensor:
    """L2 norm of all gradient sums of the model, shared and replicated parameters counted once; fp32 scalar on the device.

    One reduction over the world and no wait for the device. Call after optimizer.prepare_grads().
    """
    grads = optimizer.chained_optimizers[0].get_main_grads_for_grad_norm()
    squares = gradient_square_sum(grads) if grads else torch.zeros((), device=optimizer.get_loss_scale().device)
    dist.all_reduce(squares, group=optimizer.get_grad_stats_parallel_group())
    return squares.sqrt()


class Update:
    """One AdamW step over this rank's shards: gradients divided and clipped, moments, fp32 master and 16-bit weights in one pass.

    Takes the place of megatron-core's scaling by tokens, clip_grad_norm and step_with_ready_grads.
    """

    def __init__(self, optimizer: MegatronOptimizer, wrapped: Sequence[DistributedDataParallel]) -> None:
        (self._part,) = optimizer.chained_optimizers
        self._wrapped = wrapped
        self._tables: dict[int, MultiTensorAdamW] = {}

    @torch.no_grad()
    def __call__(self, scale: torch.Tensor) -> None:
        """Step with the gradients times `scale`, an fp32 scalar on the device; NaN changes nothing. The host does not wait."""
        part = self._part
        model_shards = {
            id(master): shard
            for masters, shards in zip(part.shard_fp32_from_float16_groups, part.shard_float16_groups, strict=True)
            for master, shard in zip(masters, shards, strict=True)
        }
        for number, group in enumerate(part.optimizer.param_groups):
            params = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not params:
                continue
            states = [part.optimizer.state[parameter] for parameter in params]
            tensors = (
                params,
                [parameter.grad for parameter in params],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [model_shards.get(id(parameter)) for parameter in params],
            )
            table = self._tables.get(number)
            if table is None or not table.matches(*tensors):
                table = self._tables[number] = MultiTensorAdamW(*tensors)
            step = int(states[0]["step"]) + 1  # counted by made() once it is known that the step was made
            beta1, beta2 = group["betas"]
            table.step(group["lr"], beta1, beta2, group["eps"], group["weight_decay"], step, scale)
        for chunk in self._wrapped:
            if not chunk.ddp_config.overlap_param_gather:
                chunk.start_param_sync()

    def made(self) -> None:
        """Count the step: it has changed the weights."""
        for group in self._part.optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._part.optimizer.state[parameter]["step"] += 1
