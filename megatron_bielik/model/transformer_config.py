"""This package's options as megatron-core's TransformerConfig."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron_bielik.config import Config
from megatron_bielik.parallel.runtime import sends_are_stream_ordered

PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}


def _leave_uninitialised(weight: torch.Tensor) -> None:
    """Weights are filled by model/initialization.py, the same for every layout, or by a checkpoint."""


def transformer_config(config: Config) -> TransformerConfig:
    """Build megatron-core's configuration. The process groups must exist already."""
    shape, parallel = config.model.shape(), config.parallel
    dtype = PRECISIONS[config.training.precision]
    interleaved = parallel.virtual_pipeline_parallel_size is not None
    modes: dict[str, dict[str, Any]] = {
        "none": {},
        "selective": {"recompute_granularity": "selective", "recompute_modules": ["layernorm"]},
        "full": {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1},
    }
    return TransformerConfig(
        num_layers=shape.num_layers,
        hidden_size=shape.hidden_size,
        ffn_hidden_size=shape.ffn_hidden_size,
        num_attention_heads=shape.num_attention_heads,
        num_query_groups=shape.num_query_groups,
        kv_channels=shape.head_dim,
        normalization="RMSNorm",
        layernorm_epsilon=shape.norm_epsilon,
        gated_linear_unit=True,
        activation_func=F.silu,
        add_bias_linear=shape.all_biases,
        add_qkv_bias=True,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        bias_activation_fusion=config.model.implementation == "transformer_engine",
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        gradient_accumulation_fusion=config.model.implementation == "local",
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype is torch.bfloat16,
        tensor_model_parallel_size=parallel.tensor_parallel_size,
        context_parallel_size=parallel.context_parallel_size,
        pipeline_model_parallel_size=parallel.pipeline_parallel_size,
        virtual_pipeline_model_parallel_size=parallel.virtual_pipeline_parallel_size,
        sequence_parallel=parallel.sequence_parallel,
        # With batched messages both directions of an interleaved pair of ranks are swapped (wrong gradients, no error).
        overlap_p2p_comm=interleaved,
        batch_p2p_comm=not interleaved,
        deallocate_pipeline_outputs=sends_are_stream_ordered(),
        calculate_per_token_loss=True,
        init_method=_leave_uninitialised,
        output_layer_init_method=_leave_uninitialised,
        embedding_init_method=_leave_uninitialised,
        **modes[parallel.recompute],
    )
