"""What is freed to be computed again comes back with the same values, and is gone once backward has used it."""

from __future__ import annotations

import weakref

import torch

from megatron_bielik.model.recompute import free_until_backward


class _Double(torch.autograd.Function):
    """An operation that keeps none of its own output."""

    @staticmethod
    def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: object, grad: torch.Tensor) -> torch.Tensor:
        return grad * 2


def build(
    source: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, weakref.ref, weakref.ref, torch.UntypedStorage]:
    output = _Double.apply(source)
    consumed = output @ weight
    kept = source.detach().clone()
    free_until_backward(output, consumed, lambda out: torch.mul(kept, 2, out=out))
    return consumed.sum(), weakref.ref(output), weakref.ref(kept), output.untyped_storage()


def test_freed_refilled_and_released_while_the_loss_lives() -> None:
    source = torch.randn(6, 4, requires_grad=True)
    weight = torch.randn(4, 3, requires_grad=True)
    loss, output, kept, storage = build(source, weight)
    assert storage.size() == 0, "freed behind its consumer"
    del storage
    loss.backward()
    torch.testing.assert_close(weight.grad, (source.detach() * 2).t() @ torch.ones(6, 3))
    assert loss is not None, "the graph is still alive, as it is between micro-batches"
    assert output() is None, "the refilled output outlives its use"
    assert kept() is None, "what it was computed from outlives its use"
