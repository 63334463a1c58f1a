"""A model's shape from and to Hugging Face's config.json, and the files that travel beside the weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from megatron_bielik.presets import Architecture, ModelShape
from megatron_bielik.rope_config import read_rope, write_both_forms
from megatron_bielik.surgery.architecture import ARCHITECTURES
from megatron_bielik.surgery.safetensors_files import ConversionError


def read_shape(folder: Path) -> ModelShape:
    """Shape of a Hugging Face model. Raises ConversionError for a model this package does not know, naming what differs."""
    path = folder / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise ConversionError(f"{path} not found: --input must be a Hugging Face model folder") from None
    except ValueError as error:
        raise ConversionError(f"{path} is damaged: {error}") from None
    if not isinstance(config, dict):
        raise ConversionError(f"{path} is damaged: it holds no JSON object")
    architecture = _architecture(path, config)
    try:
        rope = read_rope(config)
    except ValueError as error:
        raise ConversionError(f"{path}: {error}") from None
    required = {
        "hidden_act": (config.get("hidden_act", "silu"), "silu"),
        "rope_parameters.rope_type": (rope["rope_type"], "default"),
        "rope_parameters.partial_rotary_factor": (rope.get("partial_rotary_factor", 1.0), 1.0),
        "use_sliding_window": (config.get("use_sliding_window", False), False),
        "layer_types": ([kind for kind in config.get("layer_types") or [] if kind != "full_attention"][:1], []),
    }
    for name, (found, needed) in required.items():
        if found != needed:
            raise ConversionError(f"{path}: {name} is {found!r}, only {needed!r} can be converted")
    try:
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        shape = ModelShape(
            architecture=architecture,
            num_layers=config["num_hidden_layers"],
            hidden_size=hidden,
            ffn_hidden_size=config["intermediate_size"],
            num_attention_heads=heads,
            num_query_groups=config.get("num_key_value_heads") or heads,
            vocab_size=config["vocab_size"],
            max_position_embeddings=config["max_position_embeddings"],
            tie_embeddings=config.get("tie_word_embeddings", False),
            head_dim=config.get("head_dim") or hidden // heads,
            rope_theta=float(rope["rope_theta"]),
            norm_epsilon=config["rms_norm_eps"],
        )
    except KeyError as error:
        raise ConversionError(f"{path} lacks {error.args[0]}") from None
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ConversionError(f"{path} is damaged: {error}") from None
    sizes = {name: value for name, value in vars(shape).items() if ModelShape.__annotations__[name] == "int"}
    for name, value in sizes.items():
        if type(value) is not int or value < 1:
            raise ConversionError(f"{path}: {name} is {value!r}, it must be a whole number above 0")
    if shape.num_attention_heads % shape.num_query_groups:
        raise ConversionError(
            f"{path}: {heads} query heads do not divide into {shape.num_query_groups} key/value heads"
        )
    return shape


def _architecture(path: Path, config: dict[str, Any]) -> Architecture:
    kind = config.get("model_type")
    by_type: dict[Any, Architecture] = {names.model_type: name for name, names in ARCHITECTURES.items()}
    if kind not in by_type:
        raise ConversionError(f"{path}: model_type is {kind!r}, known are {', '.join(by_type)}")
    if kind == "llama" and not (config.get("attention_bias") and config.get("mlp_bias")):
        raise ConversionError(
            f"{path}: a Llama with attention_bias {config.get('attention_bias', False)} and mlp_bias "
            f"{config.get('mlp_bias', False)}; the Bielik form needs both true"
        )
    return by_type[kind]


def write_config(folder: Path, shape: ModelShape, dtype: str) -> None:
    """Write config.json as transformers writes it for this shape, rope in both forms (see rope_config.py).

    Args:
        dtype: Such as "bfloat16".
    """
    from transformers import LlamaConfig, Qwen2Config

    tokens = _special_tokens(folder)
    common: dict[str, Any] = {
        "architectures": [ARCHITECTURES[shape.architecture].hf_class],
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.ffn_hidden_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_attention_heads,
        "num_key_value_heads": shape.num_query_groups,
        "head_dim": shape.head_dim,
        "max_position_embeddings": shape.max_position_embeddings,
        "rms_norm_eps": shape.norm_epsilon,
        "rope_parameters": {"rope_theta": shape.rope_theta, "rope_type": "default"},
        "tie_word_embeddings": shape.tie_embeddings,
        "dtype": dtype,
        "bos_token_id": tokens.get("bos_token"),
        "eos_token_id": tokens.get("eos_token"),
        "pad_token_id": tokens.get("pad_token"),
    }
    if shape.architecture == "bielik":
        config: Any = LlamaConfig(attention_bias=True, mlp_bias=True, **common)
    else:
        config = Qwen2Config(use_sliding_window=False, **common)
    config.save_pretrained(folder)
    write_both_forms(folder)


def _special_tokens(folder: Path) -> dict[str, int]:
    """Ids of the special tokens by role, as far as the tokenizer in the folder names them."""
    settings, vocabulary = folder / "tokenizer_config.json", folder / "tokenizer.json"
    if not (settings.is_file() and vocabulary.is_file()):
        return {}
    try:
        ids = {token["content"]: token["id"] for token in json.loads(vocabulary.read_text())["added_tokens"]}
        roles = json.loads(settings.read_text())
    except (ValueError, KeyError, TypeError) as error:
        raise ConversionError(f"{folder}: tokenizer.json or tokenizer_config.json is damaged ({error})") from None
    found = {}
    for role in ("bos_token", "eos_token", "pad_token"):
        token = roles.get(role)
        content = token["content"] if isinstance(token, dict) else token
        if content in ids:
            found[role] = ids[content]
    return found
