"""The output matrix when the loss is computed in chunks of tokens, so that all logits never exist at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from megatron.core.tensor_parallel.layers import ColumnParallelLinear
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)


class OutputLayer(ColumnParallelLinear):
    """megatron-core's linear, which gives the loss instead of logits when it is told how.

    The loss is asked of the module, not of its weight, because megatron-core's hooks wait for the weight when it is called.
    """

    def forward(
        self,
        input_: torch.Tensor,
        weight: torch.Tensor | None = None,
        *others: Any,
        loss: Callable[..., torch.Tensor] | None = None,
        **more: Any,
    ) -> Any:
        """hidden [tokens (/ tp), 1, hidden] -> loss [tokens], fp32; without a loss as ColumnParallelLinear.

        Args:
            loss: linear_cross_entropy, with labels, vocabulary and chunk size put in.
        """
        if loss is None:
            return super().forward(input_, weight, *others, **more)
        weight = self.weight if weight is None else weight
        if self.sequence_parallel:
            hidden = gather_from_sequence_parallel_region(input_, group=self.tp_group)
        else:
            hidden = copy_to_tensor_model_parallel_region(input_, group=self.tp_group)
        first_row, main_grad = self.tp_group.rank() * weight.size(0), getattr(weight, "main_grad", None)
        return loss(hidden.squeeze(1), weight, first_row=first_row, group=self.tp_group, main_grad=main_grad)
