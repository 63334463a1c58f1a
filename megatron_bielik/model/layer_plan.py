"""What a layer is made of: the provider that puts this package's operations into megatron-core's layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from megatron.core.models.backends import LocalSpecProvider
from megatron.core.transformer.attention import SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules

from megatron_bielik.kernels.rms_norm import rms_norm
from megatron_bielik.kernels.swiglu import swiglu
from megatron_bielik.model.attention import DocumentAttention, PackedSelfAttention
from megatron_bielik.parallel.runtime import current_device


class RMSNorm(torch.nn.Module):
    """RMSNorm with a weight that takes part in sequence parallelism (megatron-core reduces such gradients over TP)."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype, device=current_device()))
        self.weight.sequence_parallel = config.sequence_parallel

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [tokens, 1, hidden] -> the same shape."""
        return rms_norm(x, self.weight, self.eps)


class SwiGLU(MLP):
    """megatron-core's gated MLP with this package's activation."""

    def forward(self, hidden_states: torch.Tensor, **unused: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        """hidden_states [tokens (/ tp), 1, hidden] -> output of the same shape, and its bias, not added yet."""
        gate_up, bias = self.linear_fc1(hidden_states)
        return self.linear_fc2(swiglu(gate_up, bias))


def residual_add(
    training: bool, fused: bool
) -> Callable[[tuple[torch.Tensor, torch.Tensor | None], torch.Tensor, float], torch.Tensor]:
    """megatron-core's place for bias + dropout + residual; these models have no dropout."""

    def add(
        output_and_bias: tuple[torch.Tensor, torch.Tensor | None], residual: torch.Tensor, dropout: float
    ) -> torch.Tensor:
        output, bias = output_and_bias
        return residual + output if bias is None else residual + (output + bias)

    return add


class BielikSpecProvider(LocalSpecProvider):
    """The modules a layer is built from: megatron-core's tensor-parallel linears, everything between them ours."""

    def layer_norm(self, rms_norm: bool = True, for_qk: bool = False) -> type:
        """The norm."""
        return RMSNorm

    def core_attention(self) -> type:
        """The core attention."""
        return DocumentAttention


def local_block(config: TransformerConfig, vp_stage: int | None) -> TransformerBlockSubmodules:
    """The layers and the final norm of one pipeline chunk."""
    provider = BielikSpecProvider()
    layer = ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=provider.layer_norm(),
            self_attention=ModuleSpec(
                module=PackedSelfAttention,
                params={"attn_mask_type": AttnMaskType.causal},
                submodules=SelfAttentionSubmodules(
                    linear_qkv=provider.column_parallel_linear(),
                    core_attention=provider.core_attention(),
                    linear_proj=provider.row_parallel_linear(),
                ),
            ),
            self_attn_bda=residual_add,
            pre_mlp_layernorm=provider.layer_norm(),
            mlp=ModuleSpec(
                module=SwiGLU,
                submodules=MLPSubmodules(
                    linear_fc1=provider.column_parallel_linear(), linear_fc2=provider.row_parallel_linear()
                ),
            ),
            mlp_bda=residual_add,
        ),
    )
    layers = get_num_layers_to_build(config, vp_stage)
    return TransformerBlockSubmodules(layer_specs=[layer] * layers, layer_norm=provider.layer_norm())


def transformer_engine_layer() -> ModuleSpec:
    """megatron-core's transformer-engine layer; checks.py has made sure that the package is there."""
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_with_transformer_engine_spec

    return get_gpt_layer_with_transformer_engine_spec()
