"""Context parallelism: a row of packed documents split over ranks so that each holds an early and a late piece.

The row of T tokens is cut into 2 n pieces of T / 2n; rank r of n holds pieces r and 2n - 1 - r, so that causal work is the
same on every rank (the split of Llama 3, section 3.3.2, and of ring attention's zigzag). Keys and values are gathered along
the group while each piece attends to itself; what a piece still lacks are the tokens of its first document that lie before
it: one rectangle of scores without a mask, merged by log-sum-exp. Backward gathers again instead of keeping the whole row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from megatron_bielik.kernels.attention import (
    Backend,
    Stretches,
    attention_backward,
    attention_forward,
    stretches,
)


@dataclass(frozen=True)
class Earlier:
    """Queries of this rank and the earlier keys of their document that lie in other pieces.

    Args:
        rows: This rank's rows.
        keys: Positions in the whole row.
        of: The rectangle, for the kernels.
    """

    rows: slice
    keys: slice
    of: Stretches


@dataclass(frozen=True)
class ContextLayout:
    """What one rank does with one row.

    Args:
        group: The context-parallel ranks.
        local: Documents cut at the piece's ends: what needs no other rank.
        earlier: The rest; none to two rectangles.
    """

    group: dist.ProcessGroup
    local: Stretches
    earlier: tuple[Earlier, ...]


def piece_numbers(rank: int, ranks: int) -> tuple[int, int]:
    """The early and the late piece of a rank, of 2 * ranks."""
    return rank, 2 * ranks - 1 - rank


def take_pieces(x: torch.Tensor, rank: int, ranks: int, dim: int = 0) -> torch.Tensor:
    """This rank's part of a row: its early piece, then its late one. x's size along dim is a multiple of 2 * ranks."""
    pieces = x.chunk(2 * ranks, dim)
    return torch.cat([pieces[number] for number in piece_numbers(rank, ranks)], dim)


def plan_pieces(lengths: tuple[int, ...], rank: int, ranks: int) -> tuple[tuple[int, ...], list[tuple[slice, slice]]]:
    """Cut documents at the pieces of a rank.

    Args:
        lengths: Tokens of each document; their sum is a multiple of 2 * ranks.
        rank, ranks: Which one of how many.

    Returns:
        Lengths of the stretches inside the pieces, in local order; and for each piece that begins inside a document its local
        rows of that document and the positions of the document's tokens before the piece.
    """
    size = sum(lengths) // (2 * ranks)
    inside: list[int] = []
    before: list[tuple[slice, slice]] = []
    for offset, number in zip((0, size), piece_numbers(rank, ranks), strict=True):
        first, last = number * size, (number + 1) * size
        start = 0
        for length in lengths:
            stop = start + length
            here = min(stop, last) - max(start, first)
            if here > 0:
                inside.append(here)
                if start < first:
                    before.append((slice(offset, offset + here), slice(start, first)))
            start = stop
    return tuple(inside), before


def context_layout(lengths: tuple[int, ...], group: dist.ProcessGroup, device: torch.device) -> ContextLayout:
    """The layout of a row for this rank of the group."""
    inside, before = plan_pieces(lengths, dist.get_rank(group), dist.get_world_size(group))
    earlier = []
    for rows, keys in before:
        rectangle = stretches((rows.stop - rows.start,), (keys.stop - keys.start,), False, device)
        earlier.append(Earlier(rows, keys, rectangle))
    return ContextLayout(group, stretches(inside, inside, True, device), tuple(earlier))


def _start_gather(kv: torch.Tensor, group: dist.ProcessGroup) -> tuple[torch.Tensor, dist.Work]:
    """Begin to collect every rank's kv [local, 2, groups, d]; read with _in_order after waiting."""
    ranks = dist.get_world_size(group)
    gathered = kv.new_empty((ranks * kv.size(0), *kv.shape[1:]))
    work = dist.all_gather_into_tensor(gathered, kv, group=group, async_op=True)
    return gathered.unflatten(0, (ranks, -1)), work


def _in_order(gathered: torch.Tensor) -> torch.Tensor:
    """[ranks, early and late piece, ...] -> the row in its order [tokens, ...]."""
    early, late = gathered.chunk(2, dim=1)
    return torch.cat((early, late.flip(0))).flatten(0, 1)


def _by_rank(row: torch.Tensor, ranks: int) -> torch.Tensor:
    """The reverse: [tokens, ...] -> [ranks, local, ...]."""
    early, late = row.unflatten(0, (2 * ranks, -1)).chunk(2)
    return torch.cat((early, late.flip(0)), dim=1)


class _ContextParallelAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: ContextLayout, backend: Backend
    ) -> torch.Tensor:
        gathered, work = _start_gather(torch.stack((k, v), 1), layout.group)
        out, lse = attention_forward(q, k, v, layout.local, backend)
        work.wait()
        keys, values = _in_order(gathered).unbind(1)
        for part in layout.earlier:
            other, sums = attention_forward(q[part.rows], keys[part.keys], values[part.keys], part.of, backend)
            _merge(out[part.rows], lse[:, part.rows], other, sums)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.layout, ctx.backend = layout, backend
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        layout, backend = ctx.layout, ctx.backend
        gathered, work = _start_gather(torch.stack((k, v), 1), layout.group)
        dq, dk, dv = attention_backward(grad, q, k, v, out, lse, layout.local, backend)
        work.wait()
        keys, values = _in_order(gathered).unbind(1)
        # fp32: every rank that holds a later piece of a document adds to these.
        wide = torch.promote_types(k.dtype, torch.float32)
        others = torch.zeros((keys.size(0), 2, *k.shape[1:]), dtype=wide, device=k.device)
        for part in layout.earlier:
            rows, columns = part.rows, part.keys
            more, key, value = attention_backward(
                grad[rows], q[rows], keys[columns], values[columns], out[rows], lse[:, rows].contiguous(), part.of, backend
            )  # fmt: skip
            dq[rows] += more
            others[columns, 0] += key
            others[columns, 1] += value
        by_rank = _by_rank(others, gathered.size(0))
        mine = torch.empty_like(by_rank[0])
        dist.reduce_scatter_tensor(mine, by_rank.flatten(0, 1), group=layout.group)
        key, value = mine.unbind(1)
        return dq, (dk + key).to(k.dtype), (dv + value).to(v.dtype), None, None


def _merge(out: torch.Tensor, lse: torch.Tensor, other: torch.Tensor, sums: torch.Tensor) -> None:
    """Put a second set of keys into out [rows, heads, d] and lse [heads, rows], in place."""
    both = torch.logaddexp(lse, sums)
    shares = ((part - both).exp().t().unsqueeze(-1) for part in (lse, sums))  # [rows, heads, 1]
    first, second = shares
    out.copy_(out * first + other * second)
    lse.copy_(both)


def context_parallel_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: ContextLayout, backend: Backend = "auto"
) -> torch.Tensor:
    """Causal attention of this rank's queries to all earlier tokens of their documents, wherever those lie.

    Args:
        q: [local tokens, heads, d]; this rank's early piece, then its late one.
        k, v: [local tokens, groups, d].
        layout: From context_layout, for the whole row.
        backend: As in kernels/attention.py; cudnn has no variable lengths here and means flash.

    Returns:
        [local tokens, heads, d].
    """
    return _ContextParallelAttention.apply(q, k, v, layout, backend)
