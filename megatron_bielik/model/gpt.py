"""The model: megatron-core's GPTModel with this package's layers, loss and names that do not depend on the layout."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron_bielik.config import Config
from megatron_bielik.kernels.cross_entropy import vocab_parallel_cross_entropy
from megatron_bielik.model.layer_plan import local_block, transformer_engine_layer
from megatron_bielik.model.packing import PackedDocuments, pack_documents
from megatron_bielik.model.transformer_config import PRECISIONS, transformer_config


class BielikModel(GPTModel):
    """One pipeline chunk of a Qwen2.5-type decoder.

    forward(input_ids [1, tokens], position_ids [1, tokens], None, labels [1, tokens], packed_seq_params) gives the loss
    per token [1, tokens] on the last stage, or logits [1, tokens, vocabulary / tp] without labels.
    """

    def __init__(self, config: Config, transformer: TransformerConfig, vp_stage: int | None = None) -> None:
        shape = config.model.shape()
        local = config.model.implementation == "local"
        super().__init__(
            config=transformer,
            transformer_layer_spec=local_block(transformer, vp_stage) if local else transformer_engine_layer(),
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
        if self.pre_process and transformer.recompute_granularity == "full":
            self.embedding.register_forward_hook(_with_gradient)

    def compute_language_model_loss(self, labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """labels [1, tokens], logits [tokens, 1, vocabulary / tp] -> fp32 [1, tokens]; padded columns count for nothing."""
        first_row = parallel_state.get_tensor_model_parallel_rank() * logits.size(-1)
        return vocab_parallel_cross_entropy(
            logits.squeeze(1),
            labels.squeeze(0),
            first_row,
            self.real_vocab_size,
            parallel_state.get_tensor_model_parallel_group(),
        ).unsqueeze(0)

    def global_names(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """Parameters with the names they have in checkpoints: layers are counted over the whole model, from 0."""
        offset = self.decoder.layers[0].layer_number - 1 if len(self.decoder.layers) else 0
        for name, parameter in self.named_parameters():
            parts = name.split(".")
            if parts[:2] == ["decoder", "layers"]:
                parts[2] = str(int(parts[2]) + offset)
            yield ".".join(parts), parameter


def _with_gradient(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
    """Recomputed layers pass gradients to their weights only if their input has one, which a frozen embedding's has not."""
    return output.requires_grad_() if torch.is_grad_enabled() and not output.requires_grad else output


def build_model(config: Config) -> list[BielikModel]:
    """Build this rank's pipeline chunks, in order; one without interleaving. Weights are not filled yet."""
    transformer = transformer_config(config)
    stages: list[int | None] = [None]
    if config.parallel.virtual_pipeline_parallel_size is not None:
        stages = list(range(config.parallel.virtual_pipeline_parallel_size))
    return [BielikModel(config, transformer, stage) for stage in stages]


def document_parameters(config: Config, cu_seqlens: torch.Tensor, positions: torch.Tensor) -> PackedDocuments:
    """The packed_seq_params of a micro-batch: cu_seqlens int32 [documents + 1] on the host, positions [tokens] on the device."""
    shape = config.model.shape()
    return pack_documents(
        cu_seqlens, positions, shape.head_dim, shape.rope_theta, PRECISIONS[config.training.precision]
    )
