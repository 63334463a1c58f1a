"""What every layer needs to know of a micro-batch: where its documents begin, and each token's rotation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from megatron.core.packed_seq_params import PackedSeqParams

from megatron_bielik.kernels.rope import rope_cos_sin


@dataclass
class PackedDocuments(PackedSeqParams):
    """megatron-core's description of a packed row, with what the local attention needs besides.

    Args:
        lengths: Tokens of each document, on the host: their sum is the row.
        cos, sin: [tokens, head_dim / 2], rotation of each token's position inside its document.
    """

    lengths: tuple[int, ...] = ()
    cos: torch.Tensor | None = None
    sin: torch.Tensor | None = None


def pack_documents(
    cu_seqlens: torch.Tensor, positions: torch.Tensor, head_dim: int, theta: float, dtype: torch.dtype
) -> PackedDocuments:
    """Describe one row of packed documents.

    Args:
        cu_seqlens: int32 [documents + 1], on the host, from 0 to the number of tokens.
        positions: [tokens], on the device; restart at each document.
        head_dim: Width of one head.
        theta: Base of the rotary frequencies.
        dtype: Of the activations.
    """
    lengths = tuple(cu_seqlens.diff().tolist())
    on_device = cu_seqlens.to(positions.device, torch.int32, non_blocking=True)
    cos, sin = rope_cos_sin(positions, head_dim, theta, dtype)
    longest = max(lengths)
    return PackedDocuments(
        qkv_format="thd",
        cu_seqlens_q=on_device,
        cu_seqlens_kv=on_device,
        max_seqlen_q=longest,
        max_seqlen_kv=longest,
        lengths=lengths,
        cos=cos,
        sin=sin,
    )
