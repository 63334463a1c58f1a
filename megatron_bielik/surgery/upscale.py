"""Depth up-scaling: a deeper model whose layers are copies of a model's, and, on the way, the Bielik form of a Qwen2.

SOLAR (Kim et al. 2023, arXiv 2312.15166, section 2): two copies of n layers, the first without its last m, the second without
its first m, one after the other. Bielik v3 Small's report then repeats the outermost layers. A layer map says both at once: the
source layer of each target layer. Layers, weights and new biases of zero are all that is written: nothing is computed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import torch

from megatron_bielik.rope_config import with_both_forms
from megatron_bielik.surgery.model_folder import (
    CONFIG,
    EMBEDDING,
    HEAD,
    check_loads,
    check_output,
    check_tied,
    copy_companions,
    output_folder,
    read_config,
    tokenizer_note,
    write_json,
)
from megatron_bielik.surgery.safetensors_files import (
    Content,
    ConversionError,
    SafetensorsReader,
    byte_counts,
    write_safetensors,
)

Form = Literal["same", "bielik"]
FORMS: tuple[Form, ...] = ("same", "bielik")
RECORD = "depth_upscaling.json"
NORM = "model.norm.weight"
_LAYER = re.compile(r"^model\.layers\.(\d+)\.(.+)$")
_LINEARS = (
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)
_NORMS = ("input_layernorm.weight", "post_attention_layernorm.weight")
# Where a Qwen2 config leaves these out, it means something else than a Llama config that does.
_QWEN2_DEFAULTS = {
    "vocab_size": 151_936,
    "intermediate_size": 22_016,
    "max_position_embeddings": 32_768,
    "num_key_value_heads": 32,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_QWEN2_ONLY = ("use_sliding_window", "sliding_window", "max_window_layers", "layer_types")


def depth_map(num_layers: int, drop: int = 0, repeat_edges: int = 0) -> list[int]:
    """Source layer of each target layer.

    Args:
        drop: With m > 0, layers 0..n-m-1 and then m..n-1 (SOLAR's s = 2(n - m)); with 0 the n layers as they are.
        repeat_edges: Further copies of the first and of the last layer of that, beside them.

    Raises:
        ConversionError: Out of range.
    """
    if not 0 <= drop < num_layers:
        raise ConversionError(f"--drop is {drop}, of {num_layers} layers 0 to {num_layers - 1} can be dropped")
    if repeat_edges < 0:
        raise ConversionError(f"--repeat-edges is {repeat_edges}, it must be 0 or more")
    inner = [*range(num_layers - drop), *range(drop, num_layers)] if drop else list(range(num_layers))
    return [*inner[:1] * repeat_edges, *inner, *inner[-1:] * repeat_edges]


def parse_layer_map(text: str, num_layers: int) -> list[int]:
    """A map from the form 0,0,0,1-27,8-34,35,35,35. Raises ConversionError for another form, or a layer there is not."""
    layers: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, -1)
        if last < first:
            raise ConversionError(f"--layer-map: {part!r} is neither a layer nor first-last; write 0,0,1-27,8-34,35")
        if last >= num_layers:
            raise ConversionError(f"--layer-map names layer {last}, the model has 0 to {num_layers - 1}")
        layers += range(first, last + 1)
    return layers


def format_layer_map(layers: Sequence[int]) -> str:
    """The inverse of parse_layer_map, with runs of three or more shortened."""
    parts: list[str] = []
    for _, run in groupby(enumerate(layers), lambda item: item[1] - item[0]):
        numbers = [layer for _, layer in run]
        parts += [f"{numbers[0]}-{numbers[-1]}"] if len(numbers) > 2 else map(str, numbers)
    return ",".join(parts)


@dataclass(frozen=True)
class UpscalePlan:
    """An up-scaling that has been checked and can begin.

    Attributes:
        layer_map: Source layer of each target layer.
        origins: Of each tensor of the result the tensor it is a copy of, or none for a bias of zeros.
        shapes, dtypes: Of the result's tensors.
        config: Of the result.
    """

    reader: SafetensorsReader
    source_layers: int
    layer_map: list[int]
    origins: dict[str, str | None]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, torch.dtype]
    config: dict[str, Any]

    @property
    def parameters(self) -> int:
        """Parameters of the result, the tied matrix counted once."""
        return sum(torch.Size(shape).numel() for shape in self.shapes.values())

    @property
    def adjacent(self) -> list[int]:
        """Target layers beside a copy of themselves: what --repeat-edges makes, originals and copies alike."""
        layers, last = self.layer_map, len(self.layer_map) - 1
        return [
            n
            for n, layer in enumerate(layers)
            if (n > 0 and layers[n - 1] == layer) or (n < last and layers[n + 1] == layer)
        ]

    @property
    def repeated(self) -> list[int]:
        """All target layers whose source layer stands more than once in the map, SOLAR's overlap included."""
        times = Counter(self.layer_map)
        return [n for n, layer in enumerate(self.layer_map) if times[layer] > 1]

    @property
    def trainable(self) -> list[str]:
        """Patterns for training.trainable: the embeddings and the repeated layers; of those the ones that stand side by
        side, if there are any, since SOLAR's overlap would be most of the model."""
        patterns = [r"^embedding\.word_embeddings\."]
        patterns += [r"^output_layer\."] if HEAD in self.shapes else []
        layers = self.adjacent or self.repeated
        return patterns + ([rf"^decoder\.layers\.({'|'.join(map(str, layers))})\."] if layers else [])

    def record(self) -> dict[str, Any]:
        """What depth_upscaling.json holds."""
        return {
            "source_layers": self.source_layers,
            "target_layers": len(self.layer_map),
            "layer_map": format_layer_map(self.layer_map),
            "source_of_target_layer": self.layer_map,
            "adjacent_copies": self.adjacent,
            "repeated": self.repeated,
            "trainable": self.trainable,
        }

    @property
    def output_bytes(self) -> int:
        """Size of the result's tensors."""
        return sum(byte_counts(self.shapes, self.dtypes).values())

    def describe(self, output: Path) -> list[str]:
        """Lines for the user. Raises ConversionError if the output cannot be written."""
        check_output(output, self.output_bytes)
        zeros = sum(origin is None for origin in self.origins.values())
        return [
            f"{self.source_layers} -> {len(self.layer_map)} layers: {format_layer_map(self.layer_map)}",
            f"{len(self.shapes)} tensors, {zeros} of them new biases of zero, {self.parameters:,} parameters, "
            f"{'un' if HEAD in self.shapes else ''}tied embeddings",
            "repeated layers and embeddings alone, for the first stage:",
            "training:",
            "  trainable:",
            *(f"    - {pattern}" for pattern in self.trainable),
        ]


def plan_upscale(
    source: Path, layer_map: Callable[[int], list[int]], form: Form = "same", untie: bool | None = None
) -> UpscalePlan:
    """Read config and headers, not the weights.

    Args:
        source: Hugging Face folder of a Qwen2 or Llama model.
        layer_map: From the number of the source's layers to the map.
        form: bielik turns the model into a Llama with biases on all linears; new ones are zero, and compute nothing new.
        untie: Write the output matrix as a copy of a tied input matrix. By default the Bielik form, whose models are untied,
            does, and "same" does not.

    Raises:
        ConversionError: Another family, or a damaged or incomplete model.
    """
    config, reader = read_config(source), SafetensorsReader(source)
    layers = _check_source(source, config, reader)
    chosen = layer_map(layers)
    tied = bool(config.get("tie_word_embeddings", False))
    untied = not tied or (form == "bielik" if untie is None else untie)
    origins = _origins(reader, chosen, form)
    if untied:
        origins[HEAD] = EMBEDDING if tied else HEAD
    shapes, dtypes = {}, {}
    for name, origin in origins.items():
        # A new bias is as long as its weight has rows, and of its type.
        like = origin or origins[name.removesuffix("bias") + "weight"]
        assert like is not None, f"the weight of {name}"
        shapes[name] = reader.shape(like) if origin else reader.shape(like)[:1]
        dtypes[name] = reader.dtype(like)
    target = _target_config(source, config, chosen, layers, form) | {"tie_word_embeddings": not untied}
    return UpscalePlan(reader, layers, chosen, origins, shapes, dtypes, target)


def upscale(
    plan: UpscalePlan,
    output: Path,
    shard_bytes: int = 5 * 10**9,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> str | None:
    """Write the model, its tokenizer and depth_upscaling.json, and see that transformers would load it.

    Args:
        output: New folder; appears when it is complete.
        shard_bytes: Largest safetensors file.
        progress: Called with tensors done and in all.

    Returns:
        What the user must know of the result's tokenizer, if anything; see tokenizer_note.

    Raises:
        ConversionError: The output exists, the disk is too small, or the result is not what transformers expects.
    """

    def tensors() -> Iterator[tuple[str, Content]]:
        for done, (name, origin) in enumerate(plan.origins.items(), start=1):
            progress(done, len(plan.origins))  # before the yield: nobody comes back after the last one
            if origin is None:
                yield name, torch.zeros(plan.shapes[name], dtype=plan.dtypes[name])
            else:
                yield name, plan.reader.row_blocks(origin)

    with output_folder(output, plan.output_bytes) as folder:
        copy_companions(plan.reader.folder, folder)
        write_safetensors(folder, plan.shapes, plan.dtypes, tensors(), shard_bytes)
        write_json(folder / CONFIG, plan.config)
        write_json(folder / RECORD, plan.record())
        parameters = check_loads(folder)
        assert parameters == plan.parameters, f"{parameters:,} parameters in transformers, {plan.parameters:,} planned"
        return tokenizer_note(folder)


def _check_source(source: Path, config: dict[str, Any], reader: SafetensorsReader) -> int:
    """Number of layers, each of which has the tensors that the config says, in one shape."""
    path, family, layers = source / CONFIG, config.get("model_type"), config.get("num_hidden_layers")
    if family not in ("qwen2", "llama"):
        raise ConversionError(f"{path}: model_type is {family!r}, known are qwen2, llama")
    if type(layers) is not int or layers < 1:
        raise ConversionError(f"{path}: num_hidden_layers is {layers!r}, it must be a whole number above 0")
    parts = sorted([*_NORMS, *(f"{linear}.weight" for linear in _LINEARS), *_biases(config)])
    needed = {EMBEDDING, NORM, HEAD} | {f"model.layers.{n}.{part}" for n in range(layers) for part in parts}
    # A tied model may carry a copy of its input matrix, or not.
    optional = {HEAD} if config.get("tie_word_embeddings", False) else set()
    if lacking := sorted(needed - set(reader.files) - optional):
        raise ConversionError(f"{source} lacks {len(lacking)} tensors, the first is {lacking[0]}")
    if unknown := sorted(set(reader.files) - needed):
        raise ConversionError(
            f"{source} has {len(unknown)} tensors that its config.json ({family}, {layers} layers) does not explain, "
            f"the first is {unknown[0]}"
        )
    if HEAD in optional:
        check_tied(reader)
    for part in parts:
        first, *others = (reader.shape(f"model.layers.{n}.{part}") for n in range(layers))
        for number, shape in enumerate(others, start=1):
            if shape != first:
                raise ConversionError(f"{source}: {part} is {first} in layer 0, {shape} in layer {number}")
    return layers


def _biases(config: dict[str, Any]) -> list[str]:
    """What a layer of the source has beside weights and norms."""
    if config["model_type"] == "qwen2":
        return [f"{linear}.bias" for linear in _LINEARS[:3]]
    attention, mlp = bool(config.get("attention_bias")), bool(config.get("mlp_bias"))
    return [f"{linear}.bias" for linear in _LINEARS if (attention if linear.startswith("self_attn") else mlp)]


def _origins(reader: SafetensorsReader, layer_map: list[int], form: Form) -> dict[str, str | None]:
    """Tensors of the result, its output matrix apart, in the order of the forward pass, and where each one comes from."""
    parts = [match[2] for name in reader.files if (match := _LAYER.match(name)) and int(match[1]) == 0]
    if form == "bielik":
        biases = [f"{linear}.bias" for linear in _LINEARS if f"{linear}.bias" not in parts]
        parts = sorted({*parts, *biases})
    origins: dict[str, str | None] = {EMBEDDING: EMBEDDING}
    for target, layer in enumerate(layer_map):
        for part in parts:
            origin = f"model.layers.{layer}.{part}"
            origins[f"model.layers.{target}.{part}"] = origin if origin in reader.files else None
    return origins | {NORM: NORM}


def _target_config(
    source: Path, config: dict[str, Any], layer_map: list[int], layers: int, form: Form
) -> dict[str, Any]:
    """The source's config.json with what the map and the form change; everything else stays, rope scaling for instance."""
    target = {**config, "num_hidden_layers": len(layer_map)}
    types = config.get("layer_types")
    if not types and config.get("use_sliding_window") and config.get("sliding_window", 4096) is not None:
        full = config.get("max_window_layers", 28)
        types = ["full_attention" if layer < full else "sliding_attention" for layer in range(layers)]
    if types:
        if not isinstance(types, list) or len(types) != layers:
            raise ConversionError(f"{source / CONFIG}: layer_types is {types!r}, a list of {layers} types is needed")
        target["layer_types"] = [types[layer] for layer in layer_map]
    if type(window := config.get("max_window_layers")) is int:
        target["max_window_layers"] = sum(layer < window for layer in layer_map)
    target = with_both_forms(target)
    if form == "same":
        return target
    if "sliding_attention" in target.get("layer_types", []):
        raise ConversionError(f"{source / CONFIG}: sliding-window attention, which the Bielik form does not have")
    defaults = _QWEN2_DEFAULTS if config["model_type"] == "qwen2" else {}
    target = defaults | {name: value for name, value in target.items() if name not in _QWEN2_ONLY}
    return target | {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": True,
        "mlp_bias": True,
    }
