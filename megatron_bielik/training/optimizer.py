"""Gradient buffers and AdamW over the model's chunks: megatron-core's DDP and distributed optimizer, fp32 throughout."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.optimizer import MegatronOptimizer, get_megatron_optimizer
from megatron.core.optimizer import OptimizerConfig as MegatronOptimizerConfig

from megatron_bielik.config import Config
from megatron_bielik.model.gpt import BielikModel
from megatron_bielik.model.transformer_config import PRECISIONS
from megatron_bielik.parallel.runtime import Runtime


def wrap_for_training(chunks: Sequence[BielikModel]) -> list[DistributedDataParallel]:
    """Give each chunk its contiguous fp32 gradient buffer; parameters with requires_grad=False get none."""
    ddp = DistributedDataParallelConfig(grad_reduce_in_fp32=True, use_distributed_optimizer=True)
    wrapped = [
        DistributedDataParallel(chunk.config, ddp, chunk, disable_bucketing=number > 0)
        for number, chunk in enumerate(chunks)
    ]
    for chunk in wrapped:
        chunk.broadcast_params()
        chunk.config.finalize_model_grads_func = finalize_model_grads
    return wrapped


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
            ),
            list(wrapped),
        )
    for part in optimizer.chained_optimizers:
        for group in part.param_groups:
            group["weight_decay"] = options.weight_decay * group["wd_mult"]
            for parameter in group["params"]:
                state = part.optimizer.state[parameter]
                if isinstance(
                    part.optimizer, torch.optim.AdamW
                ):  # others, of transformer-engine or Apex, count per group
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
    """L2 norm of all gradients of the model, shared and replicated parameters counted once; fp32 scalar on the device.

    One reduction over the world and no wait for the device. Call after optimizer.prepare_grads().
    """
    grads = optimizer.chained_optimizers[0].get_main_grads_for_grad_norm()
    device = optimizer.get_loss_scale().device
    squares = torch.zeros((), dtype=torch.float32, device=device)
    if grads:
        squares = torch.stack(torch._foreach_norm(grads)).square().sum()
    dist.all_reduce(squares, group=optimizer.get_grad_stats_parallel_group())
    return squares.sqrt()


@torch.no_grad()
def clip_gradients(optimizer: MegatronOptimizer, norm: torch.Tensor, limit: float) -> None:
    """Scale all gradients by limit / norm where the norm is larger."""
    grads = [p.grad for p in optimizer.get_parameters() if p.grad is not None]
    if grads and limit > 0:
        torch._foreach_mul_(grads, (limit / (norm + 1e-6)).clamp(max=1.0))
