"""Causal grouped-query attention over packed documents: out = softmax(q k^T / sqrt(d)) v inside each stretch of tokens.

Stretches are given by their lengths; no S x S matrix and no mask ever exist. Forward keeps the log-sum-exp of every row, so
that partial results over different keys can be merged (context parallelism) and backward needs nothing else
(Dao, 2023, FlashAttention-2, section 3.1). On a GPU torch's variable-length flash attention or cuDNN does the work, or
FlashAttention-3 registered in its place; elsewhere torch's CPU flash attention, stretch by stretch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

Backend = Literal["auto", "flash", "flash3", "cudnn", "torch"]

_flash, _flash_backward = torch.ops.aten._flash_attention_forward, torch.ops.aten._flash_attention_backward
_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_cpu_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

QUERY_BLOCK = 512  # rows of scores that the fallback on a GPU holds at a time


@dataclass(frozen=True)
class Stretches:
    """Queries and the keys they attend to, stretch by stretch.

    Args:
        queries, keys: Lengths, on the host; with causal they are equal.
        cu_queries, cu_keys: int32 [stretches + 1], the same as running sums, on the device.
        causal: Row i of a stretch sees keys 0 to i; otherwise all keys of the stretch.
    """

    queries: tuple[int, ...]
    keys: tuple[int, ...]
    cu_queries: torch.Tensor
    cu_keys: torch.Tensor
    causal: bool = True

    def __iter__(self) -> Iterator[tuple[slice, slice]]:
        """Rows of queries and of keys of each stretch."""
        q = k = 0
        for queries, keys in zip(self.queries, self.keys, strict=True):
            yield slice(q, q + queries), slice(k, k + keys)
            q, k = q + queries, k + keys


def stretches(queries: tuple[int, ...], keys: tuple[int, ...], causal: bool, device: torch.device) -> Stretches:
    """Build Stretches from lengths on the host."""

    def sums(lengths: tuple[int, ...]) -> torch.Tensor:
        return torch.tensor((0, *lengths), dtype=torch.int32).cumsum(0, dtype=torch.int32).to(device, non_blocking=True)

    cu_queries = sums(queries)
    return Stretches(queries, keys, cu_queries, cu_queries if keys == queries else sums(keys), causal)


def attention_reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, of: Stretches) -> torch.Tensor:
    """The definition, scores written out. q: [tokens, heads, d], k, v: [keys, groups, d] -> [tokens, heads, d]."""
    per_group = q.size(1) // k.size(1)
    outputs = []
    for rows, columns in of:
        keys, values = (x[columns].repeat_interleave(per_group, dim=1) for x in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q[rows], keys) / math.sqrt(q.size(-1))
        if of.causal:
            scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
        outputs.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), values))
    return torch.cat(outputs)


def attention_forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, of: Stretches, backend: Backend = "auto"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention without autograd.

    Args:
        q: [tokens, heads, d]; rows and heads may have any stride.
        k, v: [keys, groups, d]; heads is a multiple of groups.
        of: Who sees whom.
        backend: See document_attention.

    Returns:
        Output [tokens, heads, d], and the log-sum-exp of each row's scores, fp32 [heads, tokens] (fp64 for fp64 input).
    """
    if _on_flash(q, backend):
        out, lse, *_ = _flash(
            q, k, v, of.cu_queries, of.cu_keys, max(of.queries), max(of.keys), 0.0, of.causal, False
        )  # fmt: skip
        return out, lse
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    wide = torch.promote_types(q.dtype, torch.float32)
    lse = torch.empty(q.size(1), q.size(0), dtype=wide, device=q.device)
    for rows, columns in of:
        part, sums = _one_forward(_heads_first(q[rows]), _heads_first(k[columns]), _heads_first(v[columns]), of.causal)
        out[rows], lse[:, rows] = part[0].transpose(0, 1), sums[0]
    return out, lse


def attention_backward(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    of: Stretches,
    backend: Backend = "auto",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of q, k and v. out and lse may come from more keys than these: the part of those keys is what comes out."""
    if _on_flash(q, backend):
        no_dropout = torch.zeros(2, dtype=torch.uint64, device=q.device)
        unused = torch.empty(0, device=q.device)
        return _flash_backward(
            grad.contiguous(), q, k, v, out, lse, of.cu_queries, of.cu_keys, max(of.queries), max(of.keys), 0.0, of.causal,
            no_dropout, unused,
        )  # fmt: skip
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    for rows, columns in of:
        dout, query, result = (_heads_first(x[rows]) for x in (grad, q, out))
        key, value = (_heads_first(x[columns]) for x in (k, v))
        parts = _one_backward(dout, query, key, value, result, lse[None, :, rows], of.causal)
        for whole, part, where in zip((dq, dk, dv), parts, (rows, columns, columns), strict=True):
            whole[where] = part[0].transpose(0, 1)
    return dq, dk, dv


def flash_takes(head_dim: int) -> bool:
    """Whether flash attention has kernels for heads of this width."""
    return head_dim % 8 == 0 and head_dim <= 256


def _on_flash(q: torch.Tensor, backend: Backend) -> bool:
    """Whether the variable-length kernels take q: 16 bits, on a GPU, heads of a width they know."""
    sixteen_bits = q.dtype in (torch.bfloat16, torch.float16)
    return backend != "torch" and q.is_cuda and sixteen_bits and flash_takes(q.size(-1))


def _has_cpu_kernel(q: torch.Tensor) -> bool:
    """Whether torch's CPU flash attention takes q; the plain form in blocks of rows is for the rest on a GPU."""
    return not q.is_cuda


def _heads_first(x: torch.Tensor) -> torch.Tensor:
    """[tokens, heads, d] -> [1, heads, tokens, d]."""
    return x.transpose(0, 1).unsqueeze(0)


def _one_forward(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """One stretch, heads first: output and log-sum-exp [1, heads, tokens]."""
    if _has_cpu_kernel(q):
        return _cpu(q, k, v, 0.0, causal)
    outputs, sums = [], []
    for start in range(0, q.size(2), QUERY_BLOCK):
        scores = _scores(q, k, causal, start)
        sums.append(scores.logsumexp(-1))
        probabilities = (scores - sums[-1][..., None]).exp().to(q.dtype)
        outputs.append(probabilities @ v.repeat_interleave(q.size(1) // k.size(1), dim=1))
    return torch.cat(outputs, 2), torch.cat(sums, 2)


def _one_backward(
    grad: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, lse: torch.Tensor, causal: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """One stretch, heads first. Rows of scores come back block by block: P = exp(S - lse), dS = P (dP - rowsum(dO O))."""
    if _has_cpu_kernel(q):
        return _cpu_backward(grad.contiguous(), q, k, v, out, lse, 0.0, causal)
    heads, groups = q.size(1), k.size(1)
    keys, values = (x.float().repeat_interleave(heads // groups, dim=1) for x in (k, v))
    dq, dk, dv = torch.empty_like(q), torch.zeros_like(keys), torch.zeros_like(values)
    for start in range(0, q.size(2), QUERY_BLOCK):
        rows = slice(start, start + QUERY_BLOCK)
        dout, query = grad[:, :, rows].float(), q[:, :, rows].float()
        probabilities = (_scores(q, k, causal, start) - lse[:, :, rows, None]).exp()
        dv += probabilities.transpose(-1, -2) @ dout
        delta = (dout * out[:, :, rows]).sum(-1, keepdim=True)
        dscores = probabilities * (dout @ values.transpose(-1, -2) - delta) / math.sqrt(q.size(-1))
        dq[:, :, rows] = (dscores @ keys).to(q.dtype)
        dk += dscores.transpose(-1, -2) @ query
    dk, dv = (x.unflatten(1, (groups, -1)).sum(2).to(k.dtype) for x in (dk, dv))
    return dq, dk, dv


def _scores(q: torch.Tensor, k: torch.Tensor, causal: bool, start: int) -> torch.Tensor:
    """Scaled scores of QUERY_BLOCK rows from `start` on, fp32 [1, heads, rows, keys]."""
    query = q[:, :, start : start + QUERY_BLOCK].float()
    keys = k.float().repeat_interleave(q.size(1) // k.size(1), dim=1)
    scores = query @ keys.transpose(-1, -2) / math.sqrt(q.size(-1))
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(start + 1)
        scores.masked_fill_(later, -torch.inf)
    return scores


class _DocumentAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, of: Stretches, backend: Backend
    ) -> torch.Tensor:
        out, lse = attention_forward(q, k, v, of, backend)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.of, ctx.backend = of, backend
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        return *attention_backward(grad, q, k, v, out, lse, ctx.of, ctx.backend), None, None


def document_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, of: Stretches, backend: Backend = "auto"
) -> torch.Tensor:
    """Attention with gradients.

    Args:
        q: [tokens, heads, d]; rows and heads may have any stride.
        k, v: [keys, groups, d]; heads is a multiple of groups.
        of: Who sees whom.
        backend: auto and flash: torch's variable-length flash attention for 16-bit tensors on a GPU. flash3: the same call,
            after use_flash_attention_3(). cudnn: cuDNN for rows of equally long documents, flash for others.
            torch: plain torch anywhere; also what fp32 and CPU tensors, and heads whose width is no multiple of 8 or
            above 256, get under every name.

    Returns:
        [tokens, heads, d].
    """
    if backend == "cudnn" and _on_flash(q, backend) and of.causal and len(set(of.queries)) == 1:
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            return _dense(q, k, v, of.queries[0])
    return _DocumentAttention.apply(q, k, v, of, backend)


def _dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, length: int) -> torch.Tensor:
    """Documents of one length as a batch: [tokens, heads, d] -> [documents, heads, length, d] and back."""
    q, k, v = (x.unflatten(0, (-1, length)).transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=k.size(1) != q.size(1))
    return out.transpose(1, 2).flatten(0, 1)


def use_flash_attention_3() -> None:
    """Put FlashAttention-3 (package flash_attn_3, module flash_attn_interface) in the place of torch's flash attention.

    Raises ImportError where it is not installed. Needs torch >= 2.11.
    """
    from torch.nn.attention import activate_flash_attention_impl

    activate_flash_attention_impl("FA3")
