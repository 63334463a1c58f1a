"""Rotary position embedding, half-rotation form, with one position per token (Su et al., 2021; as in transformers' Llama)."""

from __future__ import annotations

from typing import Any

import torch

from megatron_bielik.kernels.dispatch import accumulate_type, tl, triton, use_kernels


def rope_cos_sin(
    positions: torch.Tensor, head_dim: int, theta: float, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of every position's angles p * theta^(-2i/d), angles in fp32.

    Args:
        positions: [tokens], integer; restart at each document.
        head_dim: d, even.
        theta: Base of the frequencies.
        dtype: Of the result.

    Returns:
        cos, sin: [tokens, head_dim / 2].
    """
    steps = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device) / head_dim
    angles = positions.float()[:, None] * (1.0 / theta**steps)[None, :]
    return angles.cos().to(dtype), angles.sin().to(dtype)


def apply_rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate (x1, x2) to (x1 cos - x2 sin, x2 cos + x1 sin), x1 and x2 the halves of each head.

    Args:
        x: [tokens, heads, head_dim].
        cos, sin: [tokens, head_dim / 2], in x's dtype.

    Returns:
        [tokens, heads, head_dim].
    """
    x1, x2 = x.chunk(2, dim=-1)
    cos, sin = cos[:, None, :], sin[:, None, :]
    return torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=-1)


def rotate_qkv_reference(
    qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The definition: see rotate_qkv."""
    query, key, value = qkv[:, :, :-2].flatten(1, 2), qkv[:, :, -2], qkv[:, :, -1]
    return apply_rope(query, cos, sin), apply_rope(key, cos, sin), value


@triton.jit
def _rotate_forward(
    qkv_ptr: tl.tensor,
    q_ptr: tl.tensor,
    cos_ptr: tl.tensor,
    sin_ptr: tl.tensor,
    qkv_stride: tl.constexpr,
    q_stride: tl.constexpr,
    groups: tl.constexpr,
    queries: tl.constexpr,
    half: tl.constexpr,
    accumulate: tl.constexpr,
    block_heads: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """One token a program, all of its heads: queries to q, keys in place."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, block_heads)
    group, slot = head // (queries + 2), head % (queries + 2)
    column = tl.arange(0, block)
    inside = (column < half)[None, :]
    is_query = ((head < groups * (queries + 2)) & (slot < queries))[:, None] & inside
    is_key = ((head < groups * (queries + 2)) & (slot == queries))[:, None] & inside
    cos = tl.load(cos_ptr + token * half + column, mask=column < half, other=0).to(accumulate)[None, :]
    sin = tl.load(sin_ptr + token * half + column, mask=column < half, other=0).to(accumulate)[None, :]
    at = qkv_ptr + token * qkv_stride + head[:, None] * (2 * half) + column[None, :]
    x1 = tl.load(at, mask=is_query | is_key, other=0).to(accumulate)
    x2 = tl.load(at + half, mask=is_query | is_key, other=0).to(accumulate)
    y1, y2 = x1 * cos - x2 * sin, x2 * cos + x1 * sin
    tl.store(at, y1, mask=is_key)
    tl.store(at + half, y2, mask=is_key)
    to = q_ptr + token * q_stride + (group * queries + slot)[:, None] * (2 * half) + column[None, :]
    tl.store(to, y1, mask=is_query)
    tl.store(to + half, y2, mask=is_query)


@triton.jit
def _rotate_backward(
    dq_ptr: tl.tensor,
    dk_ptr: tl.tensor,
    dv_ptr: tl.tensor,
    cos_ptr: tl.tensor,
    sin_ptr: tl.tensor,
    dqkv_ptr: tl.tensor,
    dq_token: int,
    dq_head: int,
    dk_token: int,
    dk_head: int,
    dv_token: int,
    dv_head: int,
    groups: tl.constexpr,
    queries: tl.constexpr,
    half: tl.constexpr,
    accumulate: tl.constexpr,
    block_heads: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """One token a program: queries and keys turned back, values as they are, into one packed row."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, block_heads)
    group, slot = head // (queries + 2), head % (queries + 2)
    column = tl.arange(0, block)
    real = (head < groups * (queries + 2))[:, None] & (column < half)[None, :]
    is_query, is_key, is_value = (slot < queries)[:, None], (slot == queries)[:, None], (slot > queries)[:, None]
    cos = tl.load(cos_ptr + token * half + column, mask=column < half, other=0).to(accumulate)[None, :]
    sin = tl.load(sin_ptr + token * half + column, mask=column < half, other=0).to(accumulate)[None, :]
    # 64 bits: with the heads in front of the tokens, the stride of a head is large.
    dq = dq_ptr + token * dq_token + ((group * queries + slot).to(tl.int64) * dq_head)[:, None] + column[None, :]
    dk = dk_ptr + token * dk_token + (group.to(tl.int64) * dk_head)[:, None] + column[None, :]
    dv = dv_ptr + token * dv_token + (group.to(tl.int64) * dv_head)[:, None] + column[None, :]
    y1 = tl.load(dq, mask=real & is_query, other=0).to(accumulate)
    y1 += tl.load(dk, mask=real & is_key, other=0).to(accumulate)
    y1 += tl.load(dv, mask=real & is_value, other=0).to(accumulate)
    y2 = tl.load(dq + half, mask=real & is_query, other=0).to(accumulate)
    y2 += tl.load(dk + half, mask=real & is_key, other=0).to(accumulate)
    y2 += tl.load(dv + half, mask=real & is_value, other=0).to(accumulate)
    to = dqkv_ptr + (token * groups * (queries + 2) + head[:, None]) * (2 * half) + column[None, :]
    tl.store(to, tl.where(is_value, y1, y1 * cos + y2 * sin), mask=real)
    tl.store(to + half, tl.where(is_value, y2, y2 * cos - y1 * sin), mask=real)


def _tile(heads: int, half: int) -> tuple[int, int, int]:
    """Heads and columns of a program, and its warps: one 16-byte access in bf16 for each half of a head."""
    block_heads, block = triton.next_power_of_2(heads), triton.next_power_of_2(half)
    return block_heads, block, min(8, max(1, block_heads * block // 256))


class _RotateQKV(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        qkv, cos, sin = qkv.detach(), cos.contiguous(), sin.contiguous()  # detached: outputs are no views to autograd
        tokens, groups, slots, dim = qkv.shape
        if qkv.stride()[1:] != (slots * dim, dim, 1):
            qkv = qkv.contiguous()
        if groups == 1:
            q = qkv[:, 0, :-2]
        else:  # a group's key and value stand between the queries, which attention wants in one row
            q = torch.empty(tokens, groups * (slots - 2), dim, dtype=qkv.dtype, device=qkv.device)
        if qkv.numel():
            block_heads, block, warps = _tile(groups * slots, dim // 2)
            _rotate_forward[(tokens,)](
                qkv, q, cos, sin, qkv.stride(0), q.stride(0), groups, slots - 2, dim // 2, accumulate_type(qkv),
                block_heads, block, num_warps=warps,
            )  # fmt: skip
        ctx.save_for_backward(cos, sin)
        ctx.shape = qkv.shape
        return q, qkv[:, :, -2], qkv[:, :, -1]

    @staticmethod
    def backward(ctx: Any, dq: torch.Tensor, dk: torch.Tensor, dv: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        tokens, groups, slots, dim = ctx.shape
        dq, dk, dv = (grad if grad.stride(-1) == 1 else grad.contiguous() for grad in (dq, dk, dv))
        dqkv = torch.empty(ctx.shape, dtype=dq.dtype, device=dq.device)
        if dqkv.numel():
            block_heads, block, warps = _tile(groups * slots, dim // 2)
            _rotate_backward[(tokens,)](
                dq, dk, dv, cos, sin, dqkv, *dq.stride()[:2], *dk.stride()[:2], *dv.stride()[:2], groups, slots - 2, dim // 2,
                accumulate_type(dq), block_heads, block, num_warps=warps,
            )  # fmt: skip
        return dqkv, None, None


def rotate_qkv(
    qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Split the output of the QKV product and rotate queries and keys. The kernel overwrites qkv: do not use it afterwards.

    Args:
        qkv: [tokens, groups, heads per group + 2, head_dim], megatron-core's order: a group's queries, its key, its value.
        cos, sin: [tokens, head_dim / 2], in qkv's dtype.

    Returns:
        q [tokens, heads, head_dim]; k and v [tokens, groups, head_dim]. k and v are views of qkv's memory, and q as well
        where there is one group.
    """
    if use_kernels(qkv):
        return _RotateQKV.apply(qkv, cos, sin)
    return rotate_qkv_reference(qkv, cos, sin)
