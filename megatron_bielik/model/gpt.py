"""The model: megatron-core's GPTModel with this package's layers, loss and names that do not depend on the layout."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron_bielik.config import Config
from megatron_bielik.kernels.attention import use_flash_attention_3
from megatron_bielik.kernels.cross_entropy import vocab_parallel_cross_entropy
from megatron_bielik.kernels.linear_cross_entropy import linear_cross_entropy
from megatron_bielik.model.embedding import Embedding
from megatron_bielik.model.layer_plan import local_block, transformer_engine_layer
from megatron_bielik.model.output import OutputLayer
from megatron_bielik.model.packing import PackedDocuments, pack_documents
from megatron_bielik.model.transformer_config import PRECISIONS, transformer_config


class BielikModel(GPTModel):
    """One pipeline chunk of a Qwen2.5-type decoder.

    forward(input_ids [1, tokens], position_ids [1, tokens], None, labels [1, tokens], packed_seq_params, loss_mask) gives
    the loss per token [1, tokens], 0 where the mask is, on the last stage, or logits [1, tokens, vocabulary / tp] without
    labels. Under context parallelism tokens are this rank's.
    """

    def __init__(self, config: Config, transformer: TransformerConfig, vp_stage: int | None = None) -> None:
        shape = config.model.shape()
        local = config.model.implementation == "local"
        super().__init__(
            config=transformer,
            transformer_layer_spec=(
                local_block(transformer, vp_stage, config.model.attention, config.model.fp8, config.model.compile)
                if local
                else transformer_engine_layer()
            ),
            vocab_size=config.model.padded_vocab_size(config.parallel.tensor_parallel_size),
            max_sequence_length=shape.max_position_embeddings,
            pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=vp_stage),
            post_process=parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=vp_stage),
            share_embeddings_and_output_weights=shape.tie_embeddings,
            # The local attention takes its rotation with the documents; transformer-engine asks for the table.
            position_embedding_type="none" if local else "rope",
            rotary_base=int(shape.rope_theta),
            vp_stage=vp_stage,
        )
        self.real_vocab_size = shape.vocab_size
        self.z_loss, self.loss_chunk_tokens = config.training.z_loss, config.training.loss_chunk_tokens
        if self.pre_process and local:
            # megatron-core names the class of its embedding in code; ours differs in its forward pass alone.
            self.embedding.word_embeddings.__class__ = Embedding
            # Of a tied matrix: both uses add to main_grad themselves, so the gradient that autograd sees counts for nothing.
            self.embedding.word_embeddings.weight.zero_out_wgrad = False
        if self.post_process and self.loss_chunk_tokens is not None:
            self.output_layer.__class__ = OutputLayer
        if self.pre_process and transformer.recompute_granularity == "full":
            self.embedding.register_forward_hook(_with_gradient)
        if (
            local and transformer.recompute_granularity != "full"
        ):  # which keeps the residual stream alone between layers
            for layer in self.decoder.layers[:-1]:
                layer.hands_on = True

    def _postprocess(
        self,
        hidden_states: torch.Tensor,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        labels: torch.Tensor | None,
        *others: object,
        loss_mask: torch.Tensor | None = None,
        **unused: object,
    ) -> torch.Tensor:
        """megatron-core's last step, hidden_states [tokens (/ tp), 1, hidden] to the loss, with this package's loss."""
        if not self.post_process or labels is None:
            return super()._postprocess(hidden_states, input_ids, position_ids, labels, *others, **unused)
        weight = self.shared_embedding_or_output_weight() if self.share_embeddings_and_output_weights else None
        asked: dict[str, Any] = {
            "labels": labels[0],
            "vocab_size": self.real_vocab_size,
            "loss_mask": None if loss_mask is None else loss_mask[0],
            "z_loss": self.z_loss,
        }
        if self.loss_chunk_tokens is None:
            logits, _ = self.output_layer(hidden_states, weight=weight)
            first_row = parallel_state.get_tensor_model_parallel_rank() * logits.size(-1)
            group = parallel_state.get_tensor_model_parallel_group()
            loss = vocab_parallel_cross_entropy(logits.squeeze(1), first_row=first_row, group=group, **asked)
        else:
            in_chunks = partial(linear_cross_entropy, chunk=self.loss_chunk_tokens, **asked)
            loss = self.output_layer(hidden_states, weight, loss=in_chunks)
        return loss[None]

    def global_names(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """Parameters with the names they have in checkpoints: layers are counted over the whole model, from 0, and the copy
        of a tied embedding that the last of several pipeline stages holds goes by the embedding's name."""
        offset = self.decoder.layers[0].layer_number - 1 if len(self.decoder.layers) else 0
        for name, parameter in self.named_parameters():
            parts = name.split(".")
            if parts[:2] == ["decoder", "layers"]:
                parts[2] = str(int(parts[2]) + offset)
            name = ".".join(parts)
            if self.share_embeddings_and_output_weights and name == "output_layer.weight":
                name = "embedding.word_embeddings.weight"
            yield name, parameter


def _with_gradient(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
    """Recomputed layers pass gradients to their weights only if their input has one, which a frozen embedding's has not."""
    return output.requires_grad_() if torch.is_grad_enabled() and not output.requires_grad else output


def build_model(config: Config) -> list[BielikModel]:
    """Build this rank's pipeline chunks, in order; one without interleaving. Weights are not filled yet."""
    if config.model.attention == "flash3":
        use_flash_attention_3()
    transformer = transformer_config(config)
    stages: list[int | None] = [None]
    if config.parallel.virtual_pipeline_parallel_size is not None:
        stages = list(range(config.parallel.virtual_pipeline_parallel_size))
    return [BielikModel(config, transformer, stage) for stage in stages]


def document_parameters(config: Config, cu_seqlens: torch.Tensor, positions: torch.Tensor) -> PackedDocuments:
    """The packed_seq_params of a micro-batch.

    Args:
        cu_seqlens: int32 [documents + 1], of the whole row, on the host.
        positions: [tokens], on the device, this rank's.
    """
    shape, dtype = config.model.shape(), PRECISIONS[config.training.precision]
    group = parallel_state.get_context_parallel_group() if config.parallel.context_parallel_size > 1 else None
    return pack_documents(cu_seqlens, positions, shape.head_dim, shape.rope_theta, dtype, group)
