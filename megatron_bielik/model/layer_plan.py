"""What a layer is made of: the provider that puts this package's operations into megatron-core's layers."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from megatron.core.models.backends import LocalSpecProvider
from megatron.core.transformer.attention import SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import (
    TransformerLayer,
    TransformerLayerSubmodules,
    get_transformer_layer_offset,
)

from megatron_bielik.kernels.attention import Backend
from megatron_bielik.kernels.rms_norm import add_rms_norm, rms_norm, rms_norm_into
from megatron_bielik.kernels.swiglu import swiglu, swiglu_into
from megatron_bielik.model.attention import DocumentAttention, PackedSelfAttention
from megatron_bielik.model.fp8_linear import Fp8ColumnParallelLinear, Fp8RowParallelLinear
from megatron_bielik.model.packing import PackedDocuments
from megatron_bielik.model.recompute import free_until_backward
from megatron_bielik.parallel.runtime import current_device

OutputAndBias = tuple[torch.Tensor, torch.Tensor | None]


class RMSNorm(torch.nn.Module):
    """RMSNorm with a weight that takes part in sequence parallelism (megatron-core reduces such gradients over TP)."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype, device=current_device()))
        self.weight.sequence_parallel = config.sequence_parallel

    def forward(self, x: torch.Tensor, pending: OutputAndBias | None = None) -> Any:
        """The norm of x, [tokens, 1, hidden]; with pending, the sum x + (output + bias) and the norm of that."""
        if pending is None:
            return rms_norm(x, self.weight, self.eps)
        return add_rms_norm(*pending, x, self.weight, self.eps)

    def again(self, x: torch.Tensor, out: torch.Tensor) -> None:
        """Write forward(x) into out, without autograd."""
        rms_norm_into(out, x, self.weight, self.eps)


class SwiGLU(MLP):
    """megatron-core's gated MLP with this package's activation."""

    def forward(self, hidden_states: torch.Tensor, **unused: Any) -> OutputAndBias:
        """hidden_states [tokens (/ tp), 1, hidden] -> output of the same shape, and its bias, not added yet."""
        gate_up, bias = self.linear_fc1(hidden_states)
        activated = swiglu(gate_up, bias)
        output, output_bias = self.linear_fc2(activated)
        if recomputes_cheap_outputs(self):
            free_until_backward(activated, output, partial(swiglu_into, x=gate_up.detach(), bias=bias))
        return output, output_bias


class BielikLayer(TransformerLayer):
    """A pre-norm layer whose sums are made by the norms that follow them.

    The sum behind the attention is made by this layer's second norm; the one behind the MLP by the next layer's first norm,
    which finds it in the micro-batch's `pending`, unless hands_on is off.
    """

    hands_on = False

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: None = None,
        packed_seq_params: PackedDocuments | None = None,
        **unused: Any,
    ) -> tuple[torch.Tensor, None]:
        """hidden_states [tokens (/ tp / cp), 1, hidden] -> the residual stream, `pending` not added, and no context."""
        assert packed_seq_params is not None, "the batch carries its documents"
        pending, packed_seq_params.pending = packed_seq_params.pending, None
        residual, normed = hidden_states, None
        if pending is None:
            normed = self.input_layernorm(residual)
        else:
            residual, normed = self.input_layernorm(residual, pending)
        attended = self.self_attention(normed, None, packed_seq_params=packed_seq_params)
        self._may_free(normed, attended[0], self.input_layernorm, residual)
        residual, normed = self.pre_mlp_layernorm(residual, attended)
        output = self.mlp(normed)
        self._may_free(normed, output[0], self.pre_mlp_layernorm, residual)
        if self.hands_on:
            packed_seq_params.pending = output
            return residual, None
        return residual_sum(output, residual), None

    def _may_free(self, normed: torch.Tensor, consumed: torch.Tensor, norm: RMSNorm, source: torch.Tensor) -> None:
        if recomputes_cheap_outputs(self):
            free_until_backward(normed, consumed, partial(norm.again, source.detach()))


def recomputes_cheap_outputs(module: torch.nn.Module) -> bool:
    """Whether norm and SwiGLU outputs of this module's forward pass are to be freed: parallel.recompute is selective."""
    return module.training and module.config.recompute_granularity == "selective"


def residual_sum(pending: OutputAndBias, residual: torch.Tensor) -> torch.Tensor:
    """residual + (output + bias); these models have no dropout."""
    output, bias = pending
    return residual + output if bias is None else residual + (output + bias)


class BielikSpecProvider(LocalSpecProvider):
    """The modules a layer is built from: megatron-core's tensor-parallel linears, everything between them ours.

    Args:
        attention: Kernel of the core attention.
        fp8: Scaling of 8-bit linears, or none for 16 and 32 bits.
        compiled: Their rounding goes through torch.compile on a GPU.
    """

    def __init__(self, attention: Backend = "auto", fp8: str = "none", compiled: bool = True) -> None:
        super().__init__()
        self._attention, self._fp8 = attention, fp8
        self._eight_bits = {"scaling": fp8, "compiled": compiled}

    def layer_norm(self, rms_norm: bool = True, for_qk: bool = False) -> type:
        """The norm."""
        return RMSNorm

    def core_attention(self) -> ModuleSpec:
        """The core attention."""
        return ModuleSpec(module=DocumentAttention, params={"backend": self._attention})

    def column_parallel_linear(self) -> type | ModuleSpec:
        """A linear split by outputs."""
        if self._fp8 == "none":
            return super().column_parallel_linear()
        return ModuleSpec(module=Fp8ColumnParallelLinear, params=self._eight_bits)

    def row_parallel_linear(self) -> type | ModuleSpec:
        """A linear split by inputs."""
        if self._fp8 == "none":
            return super().row_parallel_linear()
        return ModuleSpec(module=Fp8RowParallelLinear, params=self._eight_bits)


def local_layer(provider: BielikSpecProvider) -> ModuleSpec:
    """One layer of the provider's modules."""
    return ModuleSpec(
        module=BielikLayer,
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
            pre_mlp_layernorm=provider.layer_norm(),
            mlp=ModuleSpec(
                module=SwiGLU,
                submodules=MLPSubmodules(
                    linear_fc1=provider.column_parallel_linear(), linear_fc2=provider.row_parallel_linear()
                ),
            ),
        ),
    )


def local_block(
    config: TransformerConfig, vp_stage: int | None, attention: Backend, fp8: str, compiled: bool
) -> TransformerBlockSubmodules:
    """The layers and the final norm of one pipeline chunk; the model's first and last layer stay out of fp8."""
    plain, eight = (local_layer(BielikSpecProvider(attention, scaling, compiled)) for scaling in ("none", fp8))
    first = get_transformer_layer_offset(config, vp_stage)
    numbers = range(first, first + get_num_layers_to_build(config, vp_stage))
    layers = [plain if number in (0, config.num_layers - 1) else eight for number in numbers]
    return TransformerBlockSubmodules(layer_specs=layers, layer_norm=RMSNorm)


def transformer_engine_layer() -> ModuleSpec:
    """megatron-core's transformer-engine layer; checks.py has made sure that the package is there."""
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_with_transformer_engine_spec

    return get_gpt_layer_with_transformer_engine_spec()
