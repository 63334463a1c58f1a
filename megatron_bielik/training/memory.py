"""Bytes on each GPU of a pipeline stage: weights, gradients, optimizer states, activations for every recompute mode.

Arithmetic only: no torch, no GPU. docs/planning.md derives every term and works one example by hand. Counted is what
autograd keeps of the layers in model/ with the kernels of kernels/, as on a GPU; the plain-torch definitions keep more.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Literal

from megatron_bielik.config import Config
from megatron_bielik.training.parameter_table import EMBEDDING, FINAL_NORM, OUTPUT, Parameter, layer_of

Recompute = Literal["none", "selective", "full"]
RECOMPUTE_MODES: tuple[Recompute, ...] = ("none", "selective", "full")

GRADIENT_BYTES = 4  # megatron-core's DistributedDataParallel sums in one contiguous fp32 buffer, also for bf16 weights


@dataclass(frozen=True)
class LayerActivations:
    """Bytes that one layer and one micro-batch keep for the backward pass on one GPU.

    Args:
        residuals: What the two RMSNorms normalise, the residual stream, and one fp32 number per token of each.
        normed: Outputs of the norms, inputs of linear_qkv and linear_fc1.
        attention: q, k and v after the rotation, the output, and the log-sum-exp of every head.
        gate_up: Output of linear_fc1.
        activated: Output of SwiGLU, input of linear_fc2.
        layer_input: The checkpoint that full recomputation keeps instead of all this.
    """

    residuals: int
    normed: int
    attention: int
    gate_up: int
    activated: int
    layer_input: int

    @property
    def everything(self) -> int:
        """Without recomputation."""
        return self.residuals + self.normed + self.attention + self.gate_up + self.activated

    def kept(self, mode: Recompute) -> int:
        """What stays from the forward pass until the layer's own backward pass."""
        if mode == "full":
            return self.layer_input
        return self.everything - (self.normed + self.activated if mode == "selective" else 0)

    def recomputed(self, mode: Recompute) -> int:
        """What comes back for a moment while the layer's backward pass runs; one layer at a time."""
        return {"none": 0, "selective": self.normed + self.activated, "full": self.everything}[mode]


def layer_activations(config: Config) -> LayerActivations:
    """The terms for this rank's tokens of a micro-batch; tensor_parallel_size divides heads and FFN."""
    shape, t = config.model.shape(), config.parallel.tensor_parallel_size
    sequence_split = t if config.parallel.sequence_parallel else 1
    tokens = rank_tokens(config)
    a = activation_bytes(config)
    query = shape.query_size // t
    key = max(shape.kv_size // t, shape.head_dim)  # more ranks than groups: every rank holds one whole group
    if t > shape.num_query_groups:
        packed = shape.query_size // shape.num_query_groups + 2 * key
    else:
        packed = query + 2 * key
    moved = query if key > shape.head_dim else 0  # q of several groups leaves the packed buffer
    hidden = tokens // sequence_split * shape.hidden_size * a
    return LayerActivations(
        residuals=2 * (hidden + 4 * tokens // sequence_split),
        normed=2 * hidden,
        attention=tokens * (a * (packed + moved + query) + 4 * shape.num_attention_heads // t),
        gate_up=tokens * a * 2 * shape.ffn_hidden_size // t,
        activated=tokens * a * shape.ffn_hidden_size // t,
        layer_input=hidden,
    )


def rank_tokens(config: Config) -> int:
    """Tokens of a micro-batch on one context-parallel rank."""
    return config.training.micro_batch_size * config.data.sequence_length // config.parallel.context_parallel_size


def activation_bytes(config: Config) -> int:
    """Bytes of one element of a weight or an activation."""
    return 2 if config.training.precision == "bf16" else 4


def optimizer_bytes(config: Config) -> int:
    """Bytes of AdamW's state per trained parameter, not split yet: two moments, and the fp32 master beside bf16."""
    return 12 if config.training.precision == "bf16" else 8


@dataclass(frozen=True)
class StageMemory:
    """Bytes on one GPU of one pipeline stage; every tensor-parallel and data-parallel rank of the stage holds the same.

    Args:
        stage: Pipeline rank.
        layers: Global numbers of its layers.
        stage_parameters: Parameters over all its tensor-parallel ranks, padded rows and tied copies included.
        parameters: This GPU's share of them.
        trained: Those of this GPU that have gradients.
        weights: Bytes of the weights.
        gradients: Bytes of the fp32 gradient buffer.
        optimizer: Bytes of the optimizer states.
        layers_in_flight: Layers times micro-batches whose activations are held at the worst moment.
        activations: Bytes held at that moment, per recompute mode, the final norm included.
        logits: Bytes of the logits, which become their gradient in place; 0 but on the last stage.
        working: Bytes that come and go in a layer's backward pass, per recompute mode: what is recomputed, gradients of
            the MLP's activations, the largest weight's place holder for autograd.
    """

    stage: int
    layers: tuple[int, ...]
    stage_parameters: int
    parameters: int
    trained: int
    weights: int
    gradients: int
    optimizer: int
    layers_in_flight: int
    activations: dict[Recompute, int]
    logits: int
    working: dict[Recompute, int]

    @property
    def static(self) -> int:
        """Bytes held all the time: weights, gradients, optimizer states."""
        return self.weights + self.gradients + self.optimizer

    def peak(self, mode: Recompute) -> int:
        """Largest sum of what is held at one time.

        static + activations + max(logits, working): the logits are gone before the first layer's backward pass begins. The
        optimizer works in place.
        """
        return self.static + self.activations[mode] + max(self.logits, self.working[mode])


def layers_in_flight(stage: int, pipeline: int, virtual: int, layers: int, micro_batches: int) -> int:
    """Layers times micro-batches held by a pipeline rank at its worst moment.

    1F1B: rank r runs p - r forward passes ahead, each through L / p layers. Interleaved (Narayanan et al. 2021, section
    2.2): 2 (p - r - 1) + (v - 1) p + 1 chunks of L / (p v) layers, on rank 0 L layers times 1 + (p - 1) / (p v).
    Both as megatron-core 0.16.1 schedules them, and never more than there is: m micro-batches.
    """
    if virtual == 1:
        return min(pipeline - stage, micro_batches) * (layers // pipeline)
    chunks = 2 * (pipeline - stage - 1) + (virtual - 1) * pipeline + 1
    return min(chunks, micro_batches * virtual) * (layers // (pipeline * virtual))


def stage_memory(
    config: Config, stage: int, table: list[Parameter], trained: Set[str], data_parallel: int, micro_batches: int
) -> StageMemory:
    """The bytes of one stage.

    Args:
        config: The job; its sizes must divide (plan.py checks).
        stage: Pipeline rank.
        table: parameter_table of the shape.
        trained: Names of the parameters with gradients.
        data_parallel: Copies of the model; with the context-parallel ranks, over whom the optimizer splits its states.
        micro_batches: Micro-batches of one step on one data-parallel rank.
    """
    shape, parallel = config.model.shape(), config.parallel
    t, pipeline, virtual = parallel.tensor_parallel_size, *pipeline_sizes(config)
    layers = stage_layers(stage, pipeline, virtual, shape.num_layers)
    own = _stage_parameters(config, stage, table, set(layers))
    shares = {parameter.name: parameter.size // t if parameter.tp_sharded else parameter.size for parameter in own}
    trained_here = [share for name, share in shares.items() if name in trained]
    a = activation_bytes(config)

    layer = layer_activations(config)
    tokens = rank_tokens(config)
    chunk = config.training.loss_chunk_tokens
    logit_rows = tokens if chunk is None else min(chunk, tokens)
    final_norm = 2 * layer.layer_input
    splits = data_parallel * parallel.context_parallel_size
    is_last = stage == pipeline - 1
    in_flight = layers_in_flight(stage, pipeline, virtual, shape.num_layers, micro_batches)
    backward = layer.gate_up + layer.activated + a * max(trained_here, default=0)
    return StageMemory(
        stage=stage,
        layers=layers,
        stage_parameters=sum(parameter.size for parameter in own),
        parameters=sum(shares.values()),
        trained=sum(trained_here),
        weights=a * sum(shares.values()),
        gradients=GRADIENT_BYTES * sum(trained_here),
        optimizer=-(-optimizer_bytes(config) * sum(trained_here) // splits),
        layers_in_flight=in_flight,
        activations={m: in_flight * layer.kept(m) + (final_norm if is_last else 0) for m in RECOMPUTE_MODES},
        logits=logit_rows * a * config.model.padded_vocab_size(t) // t if is_last else 0,
        working={mode: layer.recomputed(mode) + backward for mode in RECOMPUTE_MODES},
    )


def pipeline_sizes(config: Config) -> tuple[int, int]:
    """Pipeline ranks and model chunks per rank (1 without interleaving)."""
    return config.parallel.pipeline_parallel_size, config.parallel.virtual_pipeline_parallel_size or 1


def stage_layers(stage: int, pipeline: int, virtual: int, layers: int) -> tuple[int, ...]:
    """Global layer numbers of a pipeline rank: chunk c of rank r begins at (c p + r) L / (p v)."""
    each = layers // (pipeline * virtual)
    starts = [(chunk * pipeline + stage) * each for chunk in range(virtual)]
    return tuple(layer for start in starts for layer in range(start, start + each))


def _stage_parameters(config: Config, stage: int, table: list[Parameter], layers: set[int]) -> list[Parameter]:
    """Parameters of a stage: embedding on the first; final norm and output matrix on the last.

    Vocabulary rows are padded. A tied output matrix is the embedding itself on one stage, and a copy of it on the last
    of several; the copy keeps the embedding's name, since it is trained when the embedding is.
    """
    is_first, is_last = stage == 0, stage == config.parallel.pipeline_parallel_size - 1
    needs_embedding = is_first or (is_last and config.model.shape().tie_embeddings)
    rows = config.model.padded_vocab_size(config.parallel.tensor_parallel_size)
    own = []
    for parameter in table:
        if parameter.name == EMBEDDING:
            held = needs_embedding
        elif parameter.name in (FINAL_NORM, OUTPUT):
            held = is_last
        else:
            held = layer_of(parameter.name) in layers
        if held and parameter.name in (EMBEDDING, OUTPUT):
            parameter = parameter._replace(size=rows * config.model.shape().hidden_size)
        if held:
            own.append(parameter)
    return own
