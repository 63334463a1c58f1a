"""Rotary embeddings in a Hugging Face config.json: read as transformers 5 does, written so that 4.x reads the same.

transformers 5 has rope_parameters, with rope_theta inside; 4.x, vLLM's older releases and llama.cpp's converter look for
rope_theta and rope_scaling at the top level, and take 10,000 where there is no rope_theta.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DEFAULT_THETA = 10_000.0  # of Llama and Qwen2 in transformers


def read_rope(config: dict[str, Any]) -> dict[str, Any]:
    """rope_theta, rope_type and its further parameters; a type, as rope_type was called once, stays beside it.

    As in transformers 5.23 (RotaryEmbeddingConfigMixin): a rope_scaling that is not empty takes the place of
    rope_parameters as a whole, and a rope_theta inside goes before one beside it.

    Args:
        config: Content of config.json.

    Raises:
        ValueError: It is no mapping, or differs by layer type.
    """
    name = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
    found = config.get(name) or {}
    if not isinstance(found, dict):
        raise ValueError(f"{name} is {found!r}, it must be a mapping")
    if nested := [key for key, value in found.items() if isinstance(value, dict)]:
        raise ValueError(f"{name} differ by layer type ({nested[0]}), only one set is known")
    rope = {key: value for key, value in found.items() if key not in ("rope_type", "rope_theta")}
    theta = found.get("rope_theta", config.get("rope_theta"))
    kind = found.get("rope_type") or found.get("type") or "default"
    return {"rope_theta": DEFAULT_THETA if theta is None else theta, "rope_type": kind, **rope}


def with_both_forms(config: dict[str, Any]) -> dict[str, Any]:
    """The config with rope in the form of transformers 5 and in that of 4.x, which mean the same.

    One that says nothing of rope, or has another one for each layer type, which the form of 4.x cannot say, stays as it is.
    """
    if not any(config.get(name) for name in ("rope_theta", "rope_parameters", "rope_scaling")):
        return config
    try:
        rope = read_rope(config)
    except ValueError:
        return config
    kept = {name: value for name, value in config.items() if name != "rope_scaling"}
    both = kept | {"rope_parameters": rope, "rope_theta": rope["rope_theta"]}
    if rope["rope_type"] == "default":
        return both
    # Without rope_theta, which 4.x does not expect there; 5 takes the one beside it.
    return both | {"rope_scaling": {name: value for name, value in rope.items() if name != "rope_theta"}}


def write_both_forms(folder: Path) -> None:
    """Bring the config.json that transformers has written into both forms."""
    path = folder / "config.json"
    config = with_both_forms(json.loads(path.read_text(encoding="utf-8")))
    path.write_text(json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
