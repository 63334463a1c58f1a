"""Selective recomputation: cheap outputs are freed after their consumer and computed again when its gradient arrives."""

from __future__ import annotations

from collections.abc import Callable

import torch


def free_until_backward(output: torch.Tensor, consumed: torch.Tensor, refill: Callable[[torch.Tensor], None]) -> None:
    """Free the memory of an operation's output until the backward pass needs it.

    Args:
        output: Saved for backward by its consumer alone; its storage holds nothing else.
        consumed: What the consumer gave. When the gradient of this is known, output is filled again.
        refill: Writes the same values into the tensor it is given, without autograd.
    """
    if not consumed.requires_grad:
        return
    storage = output.untyped_storage()
    size = storage.size()
    # A hook lives as long as the graph, that is, the loss: it must not keep what backward has done with.
    held = [(output, refill)]

    def fill_again(grad: torch.Tensor) -> None:
        kept, fill = held.pop()
        kept.untyped_storage().resize_(size)
        # The consumer's saved tensor keeps its version: the values are the ones that it saw.
        with torch.no_grad(), torch.autograd._unsafe_preserve_version_counter(kept):
            fill(kept)

    consumed.register_hook(fill_again)
    storage.resize_(0)
