"""Weight gradients added in fp32 straight into the main gradient buffer: main_grad += grad_output^T x, one GEMM, beta 1.

megatron-core asks Apex's extension fused_weight_gradient_mlp_cuda for this; install_weight_gradient_module answers in its
place, so that its tensor-parallel linears need no Apex.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from types import ModuleType

import torch

_APEX_NAME = "fused_weight_gradient_mlp_cuda"


def accumulate_weight_gradient(main_grad: torch.Tensor, x: torch.Tensor, grad_output: torch.Tensor) -> None:
    """main_grad += grad_output^T x, summed in main_grad's dtype.

    Args:
        main_grad: [out, in], fp32; changed in place.
        x: [..., in], input of the linear.
        grad_output: [..., out], gradient of its output.
    """
    x, grad_output = x.flatten(0, -2), grad_output.flatten(0, -2)
    if x.dtype is main_grad.dtype:
        main_grad.addmm_(grad_output.t(), x)
    elif x.is_cuda:
        if _addmm_widens(x.device, x.dtype):
            torch.addmm(main_grad, grad_output.t(), x, out_dtype=main_grad.dtype, out=main_grad)
        else:  # one more pass over the gradient, the same sums
            main_grad += torch.mm(grad_output.t(), x, out_dtype=main_grad.dtype)
    else:  # the overload with out_dtype exists on GPUs alone
        main_grad.addmm_(grad_output.t().to(main_grad.dtype), x.to(main_grad.dtype))


@cache
def _addmm_widens(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this build's addmm adds 16-bit products to an fp32 matrix in place; tried once per device and type."""
    total = torch.ones(16, 16, device=device)
    ones = torch.ones(16, 16, device=device, dtype=dtype)
    try:
        torch.addmm(total, ones, ones, out_dtype=total.dtype, out=total)
    except (RuntimeError, TypeError):
        return False
    return bool((total == 17).all())


def mark_accumulated(weight: torch.Tensor) -> torch.Tensor:
    """Tell megatron-core's hooks that main_grad has this gradient. Returns what autograd needs in its place: any values."""
    weight.grad_added_to_main_grad = True
    # megatron-core's hook adds what autograd sees where a weight is marked so: it must then be zero.
    return torch.zeros_like(weight) if getattr(weight, "zero_out_wgrad", False) else torch.empty_like(weight)


def install_weight_gradient_module() -> None:
    """Answer megatron-core's import of Apex's extension, unless that is installed; also after megatron-core was imported."""
    if _APEX_NAME in sys.modules or importlib.util.find_spec(_APEX_NAME):
        return
    module = ModuleType(_APEX_NAME, "Stands in for Apex's extension; see megatron_bielik/kernels/weight_gradient.py.")

    def accumulate(x: torch.Tensor, grad_output: torch.Tensor, main_grad: torch.Tensor) -> None:
        accumulate_weight_gradient(main_grad, x, grad_output)

    module.__dict__.update(wgrad_gemm_accum_fp32=accumulate, wgrad_gemm_accum_fp16=accumulate)
    sys.modules[_APEX_NAME] = module
    layers = sys.modules.get("megatron.core.tensor_parallel.layers")
    if layers is not None:  # it has looked already, in vain
        layers.__dict__.update({_APEX_NAME: module, "_grad_accum_fusion_available": True})
