"""Vocabulary-parallel embedding whose gradient goes straight into the fp32 gradient buffer, in the same order every time."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel.layers import VocabParallelEmbedding
from megatron.core.tensor_parallel.mappings import (
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)

from megatron_bielik.kernels.embedding import accumulate_embedding_gradient
from megatron_bielik.kernels.weight_gradient import mark_accumulated


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        ctx.weight = weight  # with its main_grad, which save_for_backward would not keep
        ctx.save_for_backward(rows)
        outside = (rows < 0) | (rows >= weight.size(0))
        return F.embedding(rows.masked_fill(outside, 0), weight).masked_fill_(outside[:, None], 0)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        (rows,), weight = ctx.saved_tensors, ctx.weight
        main_grad = getattr(weight, "main_grad", None)
        if main_grad is not None:
            accumulate_embedding_gradient(main_grad, grad, rows)
            return mark_accumulated(weight), None
        buffer = torch.zeros(weight.shape, dtype=torch.promote_types(weight.dtype, torch.float32), device=weight.device)
        accumulate_embedding_gradient(buffer, grad, rows)
        return buffer.to(weight.dtype), None


def lookup(weight: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Rows of a matrix; zeros where the number lies outside.

    Args:
        weight: [rows, hidden]. Where it has a main_grad (fp32), the gradient is added to that.
        rows: int64 [tokens].

    Returns:
        [tokens, hidden].
    """
    return _Lookup.apply(weight, rows)


class Embedding(VocabParallelEmbedding):
    """megatron-core's embedding with this lookup."""

    def forward(self, input_: torch.Tensor) -> torch.Tensor:
        """Token ids [1, tokens] -> [1, tokens, hidden], or with sequence parallelism [tokens / tp, 1, hidden]."""
        found = lookup(self.weight, input_.flatten() - self.vocab_start_index).unflatten(0, input_.shape)
        if self.reduce_scatter_embeddings:
            found = found.transpose(0, 1).contiguous()
            return reduce_scatter_to_sequence_parallel_region(found, group=self.tp_group)
        return reduce_from_tensor_model_parallel_region(found, group=self.tp_group)
