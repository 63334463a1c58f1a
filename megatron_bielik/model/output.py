"""The output matrix when the loss is computed in chunks of tokens, so that all logits never exist at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.tensor_parallel.layers import ColumnParallelLinear
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)

from megatron_bielik.kernels.linear_cross_entropy import linear_cross_entropy


@dataclass(frozen=True)
class Chunk:
    """What the loss needs besides hidden states and weight.

    Args:
        labels: int64 [tokens].
        vocab_size: Real vocabulary; columns from there on are padding.
        loss_mask: [tokens] or none; 0 where a token has no loss.
        z_loss: Weight of the squared log-sum-exp.
        tokens: Rows of one chunk.
    """

    labels: torch.Tensor
    vocab_size: int
    loss_mask: torch.Tensor | None
    z_loss: float
    tokens: int


class OutputLayer(ColumnParallelLinear):
    """megatron-core's linear, which gives the loss instead of logits when it is given a chunk.

    The loss is asked of the module, not of its weight, because megatron-core's hooks wait for the weight when it is called.
    """

    def forward(
        self,
        input_: torch.Tensor,
        weight: torch.Tensor | None = None,
        *others: Any,
        chunk: Chunk | None = None,
        **more: Any,
    ) -> Any:
        """hidden [tokens (/ tp), 1, hidden] -> loss [tokens], fp32; without a chunk as ColumnParallelLinear."""
        if chunk is None:
            return super().forward(input_, weight, *others, **more)
        weight = self.weight if weight is None else weight
        if self.sequence_parallel:
            hidden = gather_from_sequence_parallel_region(input_, group=self.tp_group)
        else:
            hidden = copy_to_tensor_model_parallel_region(input_, group=self.tp_group)
        return linear_cross_entropy(
            hidden.squeeze(1), weight, chunk.labels, self.tp_group.rank() * weight.size(0), chunk.vocab_size, self.tp_group,
            chunk.loss_mask, chunk.z_loss, chunk=chunk.tokens, main_grad=getattr(weight, "main_grad", None),
        )  # fmt: skip
