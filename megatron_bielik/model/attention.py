"""Self-attention over packed documents: one QKV product, rotation by document position, attention that stops at documents."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import tensor_parallel
from megatron.core.transformer.attention import SelfAttention

from megatron_bielik.kernels.rope import apply_rope
from megatron_bielik.model.packing import PackedDocuments


def document_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: tuple[int, ...]
) -> torch.Tensor:
    """Causal grouped-query attention inside each document: softmax(q k^T / sqrt(d)) v. No mask over the row is built.

    Args:
        query: [tokens, heads, head_dim].
        key, value: [tokens, groups, head_dim]; heads is a multiple of groups.
        lengths: Tokens of each document, in order.

    Returns:
        [tokens, heads, head_dim].
    """
    outputs = []
    for q, k, v in zip(query.split(lengths), key.split(lengths), value.split(lengths), strict=True):
        # [document, heads, dim] -> [1, heads, document, dim]
        q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=k.size(1) != q.size(1))
        outputs.append(out.squeeze(0).transpose(0, 1))
    return torch.cat(outputs)


class DocumentAttention(torch.nn.Module):
    """The core attention as megatron-core builds it: no parameters."""

    def __init__(self, **build_arguments: Any) -> None:
        super().__init__()

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: tuple[int, ...]
    ) -> torch.Tensor:
        """As document_attention."""
        return document_attention(query, key, value, lengths)


class PackedSelfAttention(SelfAttention):
    """megatron-core's self-attention with the forward pass of this package.

    Heads are split over tensor-parallel ranks; with more ranks than key/value groups megatron-core gathers the groups.
    """

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: None,
        packed_seq_params: PackedDocuments | None = None,
        **unused: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """hidden_states [tokens (/ tp), 1, hidden] -> output of the same shape, and its bias, not added yet."""
        assert packed_seq_params is not None, "the batch carries its documents"
        documents = packed_seq_params
        query, key, value = (x.squeeze(1) for x in self.get_query_key_value_tensors(hidden_states))
        query = apply_rope(query, documents.cos, documents.sin)
        key = apply_rope(key, documents.cos, documents.sin)
        if self.checkpoint_core_attention and self.training:
            context = tensor_parallel.checkpoint(
                lambda q, k, v: self.core_attention(q, k, v, documents.lengths), False, query, key, value
            )
        else:
            context = self.core_attention(query, key, value, documents.lengths)
        return self.linear_proj(context.reshape(context.size(0), 1, -1))
