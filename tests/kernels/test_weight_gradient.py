"""Weight gradients added in fp32 against float64, and what megatron-core makes of the stand-in for Apex's extension."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from megatron_bielik.kernels import weight_gradient
from megatron_bielik.kernels.weight_gradient import accumulate_weight_gradient, install_weight_gradient_module

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def case(tokens: tuple[int, ...], into: int, out: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(sum(tokens) + into)
    x, grad = (torch.randn(*tokens, width, generator=generator).to(DEVICE, dtype) for width in (into, out))
    return x, grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tokens", [(1,), (7,), (1000,), (50, 1), (4, 2, 3), (0,), (0, 1)])
def test_adds_the_product(tokens: tuple[int, ...], dtype: torch.dtype) -> None:
    x, grad = case(tokens, 48, 24, dtype)
    main_grad = torch.linspace(-1, 1, 24 * 48, device=DEVICE).view(24, 48)
    wanted = main_grad.double() + grad.double().flatten(0, -2).t() @ x.double().flatten(0, -2)
    accumulate_weight_gradient(main_grad, x, grad)
    assert main_grad.dtype == torch.float32
    torch.testing.assert_close(main_grad.double(), wanted, atol=1e-4, rtol=1e-5)


def test_many_small_additions_are_not_lost() -> None:
    """Each is below half a unit in bf16's last place of what is there."""
    x, grad = (torch.full((1, 8), value, device=DEVICE, dtype=torch.bfloat16) for value in (1.0, 2**-10))
    main_grad = torch.ones(8, 8, device=DEVICE)
    for _ in range(64):
        accumulate_weight_gradient(main_grad, x, grad)
    assert torch.equal(main_grad, torch.full_like(main_grad, 1 + 64 / 2**10))


def test_not_contiguous() -> None:
    x, grad = (t[:, ::2] for t in case((9,), 32, 24, torch.bfloat16))
    main_grad = torch.zeros(12, 16, device=DEVICE)
    accumulate_weight_gradient(main_grad, x, grad)
    torch.testing.assert_close(main_grad.double(), grad.double().t() @ x.double(), atol=1e-5, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("widens", [True, False])
def test_both_products_of_a_gpu_agree(widens: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x, grad = case((1000,), 48, 24, torch.bfloat16)
    main_grad = torch.ones(24, 48, device=DEVICE)
    monkeypatch.setattr(weight_gradient, "_addmm_widens", lambda device, dtype: widens)
    accumulate_weight_gradient(main_grad, x, grad)
    torch.testing.assert_close(main_grad.double(), 1 + grad.double().t() @ x.double(), atol=1e-3, rtol=1e-5)


def test_an_addmm_that_refuses_or_rounds_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = weight_gradient._addmm_widens.__wrapped__
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch, "addmm", lambda total, a, b, out_dtype, out: out.add_(16))
    assert ask(cpu, torch.bfloat16)
    monkeypatch.setattr(torch, "addmm", lambda total, a, b, out_dtype, out: out)
    assert not ask(cpu, torch.bfloat16)
    monkeypatch.undo()
    assert not ask(cpu, torch.bfloat16)  # torch has the overload for GPUs alone


PROGRAM = """
import sys, torch
from megatron_bielik.kernels.weight_gradient import install_weight_gradient_module
install_weight_gradient_module()
installed = sys.modules["fused_weight_gradient_mlp_cuda"]
install_weight_gradient_module()
assert sys.modules["fused_weight_gradient_mlp_cuda"] is installed
from megatron.core.tensor_parallel import layers
assert layers._grad_accum_fusion_available
assert layers.fused_weight_gradient_mlp_cuda is installed
for name, dtype in (("wgrad_gemm_accum_fp32", torch.float32), ("wgrad_gemm_accum_fp16", torch.bfloat16)):
    main_grad = torch.ones(3, 2, dtype=dtype)
    x, grad = torch.full((4, 1, 2), 2.0, dtype=torch.bfloat16), torch.full((4, 1, 3), 0.5, dtype=torch.bfloat16)
    getattr(installed, name)(x, grad, main_grad)
    assert torch.equal(main_grad, torch.full((3, 2), 5.0, dtype=dtype)), main_grad
"""


def test_megatron_core_takes_it_for_the_extension() -> None:
    """In a process of its own: megatron-core looks for it once, when it is imported."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_real_extension_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "fused_weight_gradient_mlp_cuda"
    (tmp_path / f"{name}.py").write_text("real = True")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, name, None)  # whatever is imported here, the module is afterwards as it was before
    monkeypatch.delitem(sys.modules, name)
    install_weight_gradient_module()
    assert importlib.import_module(name).real
