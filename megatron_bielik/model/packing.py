"""What every layer needs to know of a micro-batch: who attends to whom, each token's rotation, the sum still to be made."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from megatron.core.packed_seq_params import PackedSeqParams

from megatron_bielik.kernels.attention import Stretches, stretches
from megatron_bielik.kernels.rope import rope_cos_sin
from megatron_bielik.model.context_parallel import ContextLayout, context_layout


@dataclass
class PackedDocuments(PackedSeqParams):
    """megatron-core's description of a packed row, with what this package's layers need besides.

    Args:
        stretches: The documents of the row.
        context: Instead of stretches, this rank's part of the row under context parallelism.
        cos, sin: [tokens, head_dim / 2], rotation of each token's position inside its document.
        pending: What the layer before left to be added to the residual stream, and its bias: the next norm adds it.
    """

    stretches: Stretches | None = None
    context: ContextLayout | None = None
    cos: torch.Tensor | None = None
    sin: torch.Tensor | None = None
    pending: tuple[torch.Tensor, torch.Tensor | None] | None = None


def pack_documents(
    cu_seqlens: torch.Tensor,
    positions: torch.Tensor,
    head_dim: int,
    theta: float,
    dtype: torch.dtype,
    group: dist.ProcessGroup | None = None,
) -> PackedDocuments:
    """Describe one row of packed documents.

    Args:
        cu_seqlens: int32 [documents + 1], on the host, from 0 to the number of tokens of the whole row.
        positions: [tokens], on the device; restart at each document. This rank's tokens under context parallelism.
        head_dim: Width of one head.
        theta: Base of the rotary frequencies.
        dtype: Of the activations.
        group: Context-parallel ranks that share the row, or none.
    """
    lengths = tuple(length for length in cu_seqlens.diff().tolist() if length)
    cos, sin = rope_cos_sin(positions, head_dim, theta, dtype)
    if group is not None:
        layout = context_layout(lengths, group, positions.device)
        return PackedDocuments(qkv_format="thd", context=layout, cos=cos, sin=sin)
    whole = stretches(lengths, lengths, True, positions.device)
    return PackedDocuments(
        qkv_format="thd",
        cu_seqlens_q=whole.cu_queries,
        cu_seqlens_kv=whole.cu_keys,
        max_seqlen_q=max(lengths),
        max_seqlen_kv=max(lengths),
        stretches=whole,
        cos=cos,
        sin=sin,
    )
