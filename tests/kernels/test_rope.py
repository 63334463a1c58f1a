"""Rotary embedding against rotation by complex numbers in float64, its gradient, and transformers' Llama."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
import torch

from megatron_bielik.kernels.dispatch import forced_kernels
from megatron_bielik.kernels.rope import apply_rope, rope_cos_sin, rotate_qkv

if TYPE_CHECKING:
    from tests.kernels.hopper import Compiled

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def formula(x: torch.Tensor, positions: torch.Tensor, theta: float) -> torch.Tensor:
    """x [tokens, heads, d]: the pair (x_i, x_{i + d/2}) as a complex number, times exp(i p theta^(-2i/d))."""
    half = x.size(-1) // 2
    frequencies = theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = positions.double()[:, None] * frequencies
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angles), angles)[:, None]
    return torch.cat((turned.real, turned.imag), dim=-1)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 4e-2)])
@pytest.mark.parametrize(("heads", "dim"), [(1, 2), (3, 10), (5, 64)])
def test_against_complex_rotation(heads: int, dim: int, dtype: torch.dtype, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(dim)
    positions = torch.tensor([0, 1, 2, 0, 1, 30])  # restarts, as in a packed row
    x, grad = (torch.randn(6, heads, dim, generator=generator).to(dtype) for _ in range(2))
    x.requires_grad_()
    cos, sin = rope_cos_sin(positions, dim, 1e4, dtype)
    assert cos.dtype == sin.dtype == dtype
    assert cos.shape == sin.shape == (6, dim // 2)
    out = apply_rope(x, cos, sin)
    out.backward(grad)
    x64 = x.detach().double().requires_grad_()
    wanted = formula(x64, positions, 1e4)
    wanted.backward(grad.double())
    assert out.dtype == dtype
    assert x.grad is not None
    torch.testing.assert_close(out.double(), wanted, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(x.grad.double(), x64.grad, atol=tolerance, rtol=tolerance)


def test_gradient_is_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 2, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    cos, sin = rope_cos_sin(torch.arange(5), 6, 1e4, torch.float64)
    assert torch.autograd.gradcheck(lambda y: apply_rope(y, cos, sin), (x,))


def test_position_zero_and_length() -> None:
    x = torch.randn(4, 2, 8, generator=torch.Generator().manual_seed(2))
    zero = rope_cos_sin(torch.zeros(4, dtype=torch.long), 8, 1e6, torch.float32)
    assert torch.equal(apply_rope(x, *zero), x)
    turned = apply_rope(x, *rope_cos_sin(torch.arange(4) * 1000, 8, 1e6, torch.float32))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))


def test_scores_depend_on_the_distance_alone() -> None:
    generator = torch.Generator().manual_seed(3)
    query, key = (torch.randn(1, 1, 16, generator=generator, dtype=torch.float64) for _ in range(2))

    def score(p: int, q: int) -> torch.Tensor:
        a = apply_rope(query, *rope_cos_sin(torch.tensor([p]), 16, 1e4, torch.float64))
        b = apply_rope(key, *rope_cos_sin(torch.tensor([q]), 16, 1e4, torch.float64))
        return (a * b).sum()

    torch.testing.assert_close(score(3, 1), score(103, 101), atol=1e-4, rtol=0)
    assert (score(3, 1) - score(3, 2)).abs() > 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_transformers(dtype: torch.dtype) -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    config = LlamaConfig(
        head_dim=20,
        hidden_size=96,
        num_attention_heads=3,
        rope_parameters={"rope_theta": 12_345.0, "rope_type": "default"},
    )
    positions = torch.tensor([0, 5, 700, 8191])
    x = torch.randn(4, 3, 20, generator=torch.Generator().manual_seed(4)).to(dtype)
    row = x.transpose(0, 1)[None]  # [1, heads, tokens, d]
    theirs, _ = apply_rotary_pos_emb(row, row, *LlamaRotaryEmbedding(config)(row, positions[None]))
    ours = apply_rope(x, *rope_cos_sin(positions, 20, 12_345.0, dtype))
    assert torch.equal(ours, theirs[0].transpose(0, 1))


def test_no_tokens() -> None:
    cos, sin = rope_cos_sin(torch.zeros(0, dtype=torch.long), 8, 1e4, torch.bfloat16)
    assert apply_rope(torch.zeros(0, 3, 8, dtype=torch.bfloat16), cos, sin).shape == (0, 3, 8)


def qkv_formula(
    qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """transformers' rule, x cos + rotate_half(x) sin, on the parts of [tokens, groups, heads per group + 2, d]."""
    cos, sin = (torch.cat((t, t), dim=-1)[:, None, None] for t in (cos, sin))
    x1, x2 = qkv.chunk(2, dim=-1)
    turned = qkv * cos + torch.cat((-x2, x1), dim=-1) * sin
    return turned[:, :, :-2].flatten(1, 2), turned[:, :, -2], qkv[:, :, -1]


def qkv_inputs(tokens: int, groups: int, per_group: int, dim: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """qkv, cos, sin, and gradients of q, k and v, all of other strides than the outputs."""
    generator = torch.Generator().manual_seed(tokens + groups + per_group + dim)
    shapes = [(tokens, groups, per_group + 2, dim), (groups * per_group, tokens, dim), (groups, tokens, 2 * dim)]
    qkv, dq, dkv = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    cos, sin = rope_cos_sin(torch.randint(0, 4096, (tokens,), generator=generator), dim, 1e6, dtype)
    grads = dq.transpose(0, 1), *dkv.transpose(0, 1).split(dim, dim=-1)
    return [tensor.to(DEVICE) for tensor in (qkv, cos, sin, *grads)]


SIZES = [(7, 2, 8, 32), (7, 1, 8, 8), (3, 4, 1, 20), (0, 2, 6, 128), (0, 1, 6, 8)]
# The interpreter takes 20 milliseconds for a token.
MATRIX = [
    pytest.param((tokens, groups, per_group, 128), marks=() if tokens == 7 else pytest.mark.full)
    for tokens, (groups, per_group) in product((1, 7, 1000), ((2, 6), (2, 8), (1, 6)))
]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2**-6)])
@pytest.mark.parametrize("sizes", [*SIZES, *MATRIX])
def test_qkv(implementation: str, sizes: tuple[int, int, int, int], dtype: torch.dtype, tolerance: float) -> None:
    qkv, cos, sin, *grads = qkv_inputs(*sizes, dtype)
    leaf, leaf64 = qkv.clone().requires_grad_(), qkv.double().requires_grad_()
    outputs = rotate_qkv(leaf * 1, cos, sin)  # a copy: it is overwritten
    torch.autograd.backward(outputs, grads)
    wanted = qkv_formula(leaf64, cos.double(), sin.double())
    torch.autograd.backward(wanted, [grad.double() for grad in grads])
    for found, needed in zip((*outputs, leaf.grad), (*wanted, leaf64.grad), strict=True):
        assert found.dtype == dtype
        assert found.shape == needed.shape
        # Products of the same size may cancel: errors are relative to the head's entries, not to the sum.
        torch.testing.assert_close(found.double(), needed, atol=2 * tolerance, rtol=tolerance)
    assert torch.equal(outputs[2], qkv[:, :, -1])


@pytest.mark.parametrize("groups", [1, 2])
def test_qkv_gradient_is_exact(implementation: str, groups: int) -> None:
    qkv, cos, sin = (t.double() for t in qkv_inputs(1, groups, 2, 2, torch.float32)[:3])
    assert torch.autograd.gradcheck(lambda x: rotate_qkv(x * 1, cos, sin), (qkv.requires_grad_(),))


@pytest.mark.parametrize("groups", [1, 2])
def test_qkv_not_contiguous(implementation: str, groups: int) -> None:
    """Tokens with a gap between them, as where the product's output is padded, and heads in another order of memory."""
    qkv, cos, sin, *_ = qkv_inputs(5, groups, 3, 8, torch.float32)
    wanted = qkv_formula(qkv.double(), cos.double(), sin.double())
    padded = torch.cat((qkv, torch.ones_like(qkv)), dim=1)
    for view in (padded[:, :groups], qkv.transpose(1, 2).contiguous().transpose(1, 2)):
        for found, needed in zip(rotate_qkv(view, cos, sin), wanted, strict=True):
            torch.testing.assert_close(found.double(), needed, atol=1e-5, rtol=1e-5)
    assert (padded[:, groups:] == 1).all()


def test_qkv_stays_in_its_memory() -> None:
    """Keys and values, and queries of one group, are written over the product's output: no second buffer."""
    pytest.importorskip("triton")
    for groups in (1, 2):
        qkv, cos, sin, *_ = qkv_inputs(3, groups, 2, 8, torch.float32)
        with forced_kernels():
            q, k, v = rotate_qkv(qkv, cos, sin)
        memory = qkv.untyped_storage().data_ptr()
        assert [t.untyped_storage().data_ptr() == memory for t in (q, k, v)] == [groups == 1, True, True]


def launches() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Production sizes, for hopper.py."""
    for groups, per_group in ((1, 6), (2, 6), (1, 8), (2, 8)):
        qkv, cos, sin, *grads = qkv_inputs(4096, groups, per_group, 128, torch.bfloat16)
        qkv.requires_grad_()
        yield (
            f"{groups} groups of {per_group}",
            lambda x=qkv, c=cos, s=sin, g=grads: torch.autograd.backward(rotate_qkv(x * 1, c, s), g),
        )


def test_compiles_for_hopper(compiled: list[Compiled]) -> None:
    """No spills, and 16 bytes an access but for cosines and sines, of which a token has 128."""
    assert len(compiled) == 8
    assert {kernel.kernel for kernel in compiled} == {"_rotate_forward", "_rotate_backward"}
    for kernel in compiled:
        assert kernel.spilled_bytes == 0, kernel
        assert set(kernel.widths[2:]) == {16}, kernel
