"""This package's operations put into a transformers Qwen2 or Llama model: RMSNorm, SwiGLU, rotary positions, the loss.

Nothing of transformers is changed: each module of the given model gets a forward of its own, parameters stay where they are and
under their names, so that saving, FSDP and gradient checkpointing see the model they know. On a CPU the operations are their
plain-torch definitions.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import LlamaForCausalLM, PreTrainedModel, Qwen2ForCausalLM

from megatron_bielik.kernels.rms_norm import rms_norm
from megatron_bielik.kernels.rope import rotate_qkv
from megatron_bielik.kernels.swiglu import swiglu
from megatron_bielik.posttrain.fused_head import FusedError, put_head

NAMES = ("norm", "swiglu", "rope", "cross_entropy")
_ROTATION = "apply_rotary_pos_emb"  # what attention's forward calls in transformers


def put_kernels(model: PreTrainedModel, names: Sequence[str] = NAMES) -> None:
    """Replace operations of a model by those of megatron_bielik.kernels, in place; a second time changes nothing.

    Call it before the model is wrapped (DDP, FSDP, PEFT), and for cross_entropy after a TRL trainer was made with it: see
    fused_head.put_head. A linear that is more than torch's own (LoRA, hooks) is called as it is.

    Args:
        model: transformers' Qwen2ForCausalLM or LlamaForCausalLM, with or without biases.
        names: norm (every RMSNorm), swiglu (between the MLP's linears), rope (queries and keys; any positions, packed or
            cached), cross_entropy (loss and log-probabilities without logits; not for GRPO).

    Raises:
        FusedError: An unknown name, another model, an activation other than SiLU, or modules whose forward was replaced.
    """
    for name in names:
        if name not in NAMES:
            raise FusedError(f"kernels: unknown name {name!r}, needs some of {', '.join(NAMES)}")
    if not isinstance(model, Qwen2ForCausalLM | LlamaForCausalLM):
        raise FusedError(
            f"kernels are for Qwen2ForCausalLM and LlamaForCausalLM, not {type(model).__name__}; leave them out "
            "(of a PEFT model, give get_base_model())"
        )
    if "swiglu" in names and model.config.hidden_act not in ("silu", "swish"):
        raise FusedError(f"kernels: hidden_act is {model.config.hidden_act}, swiglu needs silu; leave swiglu out")
    put: list[tuple[nn.Module, Callable[..., Any]]] = []
    decoder = model.model
    norms = [decoder.norm, *(n for x in decoder.layers for n in (x.input_layernorm, x.post_attention_layernorm))]
    if "norm" in names:
        put += [(norm, _norm_forward) for norm in norms]
    if "swiglu" in names:
        put += [(layer.mlp, _mlp_forward) for layer in decoder.layers]
    if "rope" in names:
        put += [(layer.self_attn, _attention_forward(type(layer.self_attn))) for layer in decoder.layers]
        put.append((decoder.rotary_emb, _rotary_forward))
    for module, _ in put:
        there = module.__dict__.get("forward")
        if there is not None and not hasattr(getattr(there, "__func__", None), "is_fused"):
            raise FusedError(
                f"kernels: the forward of a {type(module).__name__} was replaced before (Liger, or hooks of a device map); "
                "put the kernels into a model as it was loaded"
            )
    for module, forward in put:
        module.forward = types.MethodType(forward, module)
    if "cross_entropy" in names:
        put_head(model)


def _is_fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a forward as one of this file."""
    function.is_fused = True  # type: ignore[attr-defined]
    return function


@_is_fused
def _norm_forward(self: nn.Module, hidden_states: torch.Tensor) -> torch.Tensor:
    if hidden_states.dtype is not self.weight.dtype or isinstance(self.weight, DTensor):
        return type(self).forward(self, hidden_states)
    return rms_norm(hidden_states, self.weight, self.variance_epsilon)


@_is_fused
def _mlp_forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    gate, up = self.gate_proj, self.up_proj
    if not (_is_plain(gate) and _is_plain(up)):
        return self.down_proj(swiglu(torch.cat((gate(x), up(x)), dim=-1)))
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    # Biases are added inside the kernel.
    bias = None if gate.bias is None else torch.cat((gate.bias, up.bias)).to(dtype)
    with torch.autocast(kind, enabled=False):
        rows = x.flatten(0, -2).to(dtype)
        both = _TwoLinears.apply(rows, gate.weight.to(dtype), up.weight.to(dtype))
        product = swiglu(both, bias)
    return self.down_proj(product.view(*x.shape[:-1], -1))


def _is_plain(linear: nn.Module) -> bool:
    """Whether a linear is its weight and bias and nothing else: no adapter, no hooks, no shards."""
    return (
        type(linear) is nn.Linear
        and not isinstance(linear.weight, DTensor)
        and not hasattr(linear.weight, "ds_id")  # DeepSpeed ZeRO-3: gathered when the module is called
        and not (linear._forward_hooks or linear._forward_pre_hooks or "forward" in linear.__dict__)
    )


class _TwoLinears(torch.autograd.Function):
    """x W_gate^T and x W_up^T side by side in one buffer: [tokens, hidden] -> [tokens, 2 * ffn]."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ffn = gate.size(0)
        both = torch.empty(x.size(0), 2 * ffn, dtype=x.dtype, device=x.device)
        torch.mm(x, gate.t(), out=both[:, :ffn])
        torch.mm(x, up.t(), out=both[:, ffn:])
        ctx.save_for_backward(x, gate, up)
        return both

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, gate, up = ctx.saved_tensors
        d_gate, d_up = grad.chunk(2, dim=-1)
        needs_x, needs_gate, needs_up = ctx.needs_input_grad
        d_x = torch.mm(d_gate, gate).addmm_(d_up, up) if needs_x else None
        return d_x, d_gate.t() @ x if needs_gate else None, d_up.t() @ x if needs_up else None


@_is_fused
def _rotary_forward(self: nn.Module, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin: [batch * sequence, head_dim / 2], as _rotate wants them; both halves of transformers' are the same."""
    rows = []
    for part in type(self).forward(self, x, position_ids):
        half = part[..., : part.size(-1) // 2]
        rows.append(half.expand(x.size(0), -1, -1).reshape(-1, half.size(-1)))
    return rows[0], rows[1]


_attention_forwards: dict[Any, Callable[..., Any]] = {}


def _attention_forward(kind: type[nn.Module]) -> Callable[..., Any]:
    """transformers' own forward of an attention class, in which the name of the rotation means ours.

    Raises:
        FusedError: A forward that does not rotate in this way.
    """
    original = kind.forward
    if original not in _attention_forwards:
        code = getattr(original, "__code__", None)
        if code is None or _ROTATION not in code.co_names:
            raise FusedError(f"kernels: {kind.__name__} of this transformers does not call {_ROTATION}; leave rope out")
        names = {**original.__globals__, _ROTATION: _rotate}
        made = types.FunctionType(code, names, original.__name__, original.__defaults__, original.__closure__)
        made.__kwdefaults__ = original.__kwdefaults__
        _attention_forwards[original] = _is_fused(made)
    return _attention_forwards[original]


def _rotate(
    query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """query [batch, heads, sequence, head_dim] and key [batch, groups, ...], turned by cos and sin [tokens, head_dim / 2]."""
    batch, _, length, _ = query.shape
    rows = (x.transpose(1, 2).flatten(0, 1) for x in (query, key))
    turned = _Rotate.apply(*rows, cos, sin)
    query, key = (x.unflatten(0, (batch, length)).transpose(1, 2) for x in turned)
    return query, key


class _Rotate(torch.autograd.Function):
    """query [tokens, heads, head_dim], key [tokens, groups, head_dim], turned by one launch in one buffer."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(cos, sin)
        return _turned(query, key, cos, sin)

    @staticmethod
    def backward(ctx: Any, d_query: torch.Tensor, d_key: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return *_turned(d_query, d_key, cos, -sin), None, None


def _turned(
    query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both as one group of heads as rotate_qkv knows it: all but the last turn as its queries, the last one as its key.

    The value's place is there and never looked at, so query and key come back as views of a buffer with one head more.
    """
    heads = query.size(1) + key.size(1)
    packed = torch.empty(query.size(0), heads + 1, query.size(2), dtype=query.dtype, device=query.device)
    packed[:, : query.size(1)] = query
    packed[:, query.size(1) : heads] = key
    first, last, _ = rotate_qkv(packed[:, None], cos, sin)
    if first.data_ptr() != packed.data_ptr():  # the definition makes new tensors, the kernel writes in place
        packed[:, : heads - 1], packed[:, heads - 1 : heads] = first, last
    return packed[:, : query.size(1)], packed[:, query.size(1) : heads]
