"""Self-attention over packed documents: one QKV product, rotation by document position, attention that stops at documents."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.transformer.attention import SelfAttention

from megatron_bielik.kernels.attention import Backend, document_attention
from megatron_bielik.kernels.rope import rotate_qkv
from megatron_bielik.model.context_parallel import context_parallel_attention
from megatron_bielik.model.packing import PackedDocuments


class DocumentAttention(torch.nn.Module):
    """The core attention as megatron-core builds it: no parameters."""

    def __init__(self, backend: Backend = "auto", **build_arguments: Any) -> None:
        super().__init__()
        self.backend = backend

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, documents: PackedDocuments
    ) -> torch.Tensor:
        """query [tokens, heads, d], key and value [tokens, groups, d] -> [tokens, heads, d]."""
        if documents.context is not None:
            return context_parallel_attention(query, key, value, documents.context, self.backend)
        assert documents.stretches is not None
        return document_attention(query, key, value, documents.stretches, self.backend)


class PackedSelfAttention(SelfAttention):
    """megatron-core's self-attention with the forward pass of this package.

    Heads are split over tensor-parallel ranks; with more ranks than key/value groups megatron-core gathers the groups.
    """

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: None = None,
        packed_seq_params: PackedDocuments | None = None,
        **unused: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """hidden_states [tokens (/ tp / cp), 1, hidden] -> output of the same shape, and its bias, not added yet."""
        assert packed_seq_params is not None, "the batch carries its documents"
        documents = packed_seq_params
        mixed, _ = self.get_query_key_value_tensors(hidden_states, split_qkv=False)
        mixed = mixed.squeeze(1).unflatten(-1, (-1, self.hidden_size_per_attention_head))
        query, key, value = rotate_qkv(mixed, documents.cos, documents.sin)
        context = self.core_attention(self._own_heads(query), key, value, documents)
        return self.linear_proj(context.reshape(context.size(0), 1, -1))

    def _own_heads(self, query: torch.Tensor) -> torch.Tensor:
        """With more tensor-parallel ranks than groups every rank has a whole group: its own heads of it."""
        sharing = self.world_size // self.config.num_query_groups
        if sharing <= 1:
            return query
        own = query.size(1) // sharing
        first = parallel_state.get_tensor_model_parallel_rank() % sharing * own
        return query[:, first : first + own]
