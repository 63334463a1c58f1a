"""What tools/bench/train_step.py sets against each other: three ways to make the same training step, one per process.

Each contender builds a decoder of the given shape with random weights in bf16, and returns a function that makes one step
(forward, backward, AdamW) on the tokens it is given.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from megatron_bielik.config import Config, DataConfig, ModelConfig, ParallelConfig, TrainingConfig
from megatron_bielik.data.batches import Batch
from megatron_bielik.parallel.runtime import Runtime
from megatron_bielik.presets import ModelShape

Step = Callable[[Sequence[torch.Tensor]], None]  # micro-batches of token ids [samples, sequence + 1]


def job(shape: ModelShape, sequence_length: int, micro_batch_size: int, **parallel: Any) -> Config:
    """Our options for one GPU."""
    return Config(
        model=ModelConfig(**vars(shape)),
        parallel=ParallelConfig(**parallel),
        data=DataConfig(sequence_length=sequence_length),
        training=TrainingConfig(micro_batch_size=micro_batch_size, global_batch_size=micro_batch_size),
    )


def random_weights(model: torch.nn.Module) -> None:
    """Speed does not depend on the values, as long as they are neither zero nor huge."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.02)


def ours(shape: ModelShape, sequence_length: int, micro_batch_size: int, runtime: Runtime, **options: Any) -> Step:
    """This package."""
    from megatron_bielik.model.gpt import build_model
    from megatron_bielik.training.optimizer import Update, build_optimizer, wrap_for_training
    from megatron_bielik.training.step import train_step

    model = {name: options.pop(name) for name in ("fp8", "attention") if name in options}
    config = job(shape, sequence_length, micro_batch_size, **options)
    config = replace(config, model=replace(config.model, **model))
    chunks = build_model(config)
    random_weights(chunks[0])
    wrapped = wrap_for_training(chunks, config.parallel)
    optimizer = build_optimizer(wrapped, config, runtime)
    update = Update(optimizer, wrapped)

    def step(micro_batches: Sequence[torch.Tensor]) -> None:
        result = train_step(wrapped, optimizer, update, [row_of(tokens) for tokens in micro_batches], config, runtime)
        assert result.updated, f"loss {result.loss}, gradient norm {result.grad_norm}"

    return step


def row_of(tokens: torch.Tensor) -> Batch:
    """Samples [samples, sequence + 1] laid end to end, each one document."""
    samples, length = tokens.size(0), tokens.size(1) - 1
    return Batch(
        tokens[:, :-1].reshape(1, -1),
        tokens[:, 1:].reshape(1, -1),
        torch.ones(1, samples * length, device=tokens.device),
        torch.arange(length, device=tokens.device).repeat(samples)[None],
        torch.arange(0, samples * length + 1, length, dtype=torch.int32),
    )


def megatron_local(
    shape: ModelShape, sequence_length: int, micro_batch_size: int, runtime: Runtime, **unused: Any
) -> Step:
    """megatron-core's own layers without transformer-engine: unfused norms and attention, scores S x S.

    Its core attention is recomputed, megatron-core's answer to the memory of the scores; same DDP buffers and optimizer
    states, stepped by torch's AdamW.
    """
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec

    from megatron_bielik.model.transformer_config import transformer_config
    from megatron_bielik.training.optimizer import build_optimizer, wrap_for_training

    config = job(shape, sequence_length, micro_batch_size)
    transformer = transformer_config(config)
    transformer.gradient_accumulation_fusion = False
    transformer.calculate_per_token_loss = False
    transformer.recompute_granularity, transformer.recompute_modules = "selective", ["core_attn"]
    model = GPTModel(
        transformer, get_gpt_layer_local_spec(normalization="RMSNorm"), shape.vocab_size, sequence_length,
        position_embedding_type="rope", rotary_base=int(shape.rope_theta),
        share_embeddings_and_output_weights=shape.tie_embeddings,
    ).to(runtime.device)  # fmt: skip
    random_weights(model)
    wrapped = wrap_for_training([model], config.parallel)
    optimizer = build_optimizer(wrapped, config, runtime)
    later = torch.ones(sequence_length, sequence_length, dtype=torch.bool, device=runtime.device).triu(1)[None, None]
    positions = torch.arange(sequence_length, device=runtime.device).expand(micro_batch_size, -1)

    def step(micro_batches: Sequence[torch.Tensor]) -> None:
        wrapped[0].zero_grad_buffer()
        optimizer.zero_grad()
        for number, tokens in enumerate(micro_batches):
            # Gradients are summed with the last micro-batch only.
            with wrapped[0].no_sync() if number < len(micro_batches) - 1 else contextlib.nullcontext():
                loss = wrapped[0](tokens[:, :-1].contiguous(), positions, later, labels=tokens[:, 1:].contiguous())
                (loss.mean() / len(micro_batches)).backward()
        wrapped[0].finish_grad_sync()
        with runtime.optimizer_construction():  # its clipping asks for the name of a GPU tensor's type
            optimizer.step()

    return step


def transformers_liger(
    shape: ModelShape, sequence_length: int, micro_batch_size: int, runtime: Runtime, **unused: Any
) -> Step:
    """transformers' Qwen2 with Liger's kernels, torch's flash attention and fused AdamW.

    Weights, gradients and moments are bf16: faster than fp32 master weights, and less precise than the other two contenders.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    if runtime.on_gpu:
        from liger_kernel.transformers import apply_liger_kernel_to_qwen2

        apply_liger_kernel_to_qwen2()
    config = AutoConfig.for_model(
        "qwen2", vocab_size=shape.vocab_size, hidden_size=shape.hidden_size, intermediate_size=shape.ffn_hidden_size,
        num_hidden_layers=shape.num_layers, num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_query_groups, max_position_embeddings=shape.max_position_embeddings,
        rms_norm_eps=shape.norm_epsilon, tie_word_embeddings=shape.tie_embeddings, use_cache=False,
    )  # fmt: skip
    with runtime.device:
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.bfloat16)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=runtime.on_gpu)

    def step(micro_batches: Sequence[torch.Tensor]) -> None:
        optimizer.zero_grad()
        for tokens in micro_batches:
            inputs = tokens[:, :-1].contiguous()  # the model shifts labels itself: one label less per sample
            (model(input_ids=inputs, labels=inputs).loss / len(micro_batches)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


CONTENDERS: dict[str, Callable[..., Step]] = {
    "ours": ours,
    "transformers + Liger": transformers_liger,
    "megatron-core local": megatron_local,
}
