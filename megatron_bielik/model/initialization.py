"""Random weights that depend on the seed and a parameter's name alone, so that every layout starts from the same model."""

from __future__ import annotations

import hashlib
import math

import torch
from megatron.core import parallel_state

from megatron_bielik.config import Config
from megatron_bielik.model.gpt import BielikModel


def full_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Shape of each matrix over all tensor-parallel ranks, without vocabulary padding, by the name's last two parts."""
    s = config.model.shape()
    return {
        "word_embeddings.weight": (s.vocab_size, s.hidden_size),
        "output_layer.weight": (s.vocab_size, s.hidden_size),
        "linear_qkv.weight": (s.query_size + 2 * s.kv_size, s.hidden_size),
        "linear_proj.weight": (s.hidden_size, s.query_size),
        "linear_fc1.weight": (2 * s.ffn_hidden_size, s.hidden_size),
        "linear_fc2.weight": (s.hidden_size, s.ffn_hidden_size),
    }


def initialize(chunks: list[BielikModel], config: Config) -> None:
    """Fill the weights: matrices normal with init_std, those that write to the residual with init_std / sqrt(2 L),
    norms one, biases zero (Shoeybi et al., 2019)."""
    shapes = full_shapes(config)
    scaled = config.model.init_std / math.sqrt(2 * config.model.shape().num_layers)
    with torch.no_grad():
        for chunk in chunks:
            for name, parameter in chunk.global_names():
                kind = ".".join(name.split(".")[-2:])
                if kind in shapes:
                    std = scaled if kind in ("linear_proj.weight", "linear_fc2.weight") else config.model.init_std
                    parameter.copy_(_my_part(_draw(name, shapes[kind], std, config.training.seed), parameter, kind))
                elif name.endswith("norm.weight") or name.endswith("layer_norm_weight"):
                    parameter.fill_(1.0)
                else:
                    parameter.zero_()


def _draw(name: str, shape: tuple[int, ...], std: float, seed: int) -> torch.Tensor:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    return torch.randn(shape, generator=generator).mul_(std)


def _my_part(full: torch.Tensor, parameter: torch.nn.Parameter, kind: str) -> torch.Tensor:
    """This tensor-parallel rank's slice of a full matrix, padded rows zero."""
    rank = parallel_state.get_tensor_model_parallel_rank()
    world = parallel_state.get_tensor_model_parallel_world_size()
    if kind == "linear_fc1.weight":  # gate and up are split each
        gate, up = full.chunk(2)
        return torch.cat((gate.chunk(world)[rank], up.chunk(world)[rank]))
    if kind in ("linear_proj.weight", "linear_fc2.weight"):
        return full.chunk(world, dim=1)[rank]
    rows = parameter.size(0)
    part = full[rank * rows : (rank + 1) * rows]
    return torch.nn.functional.pad(part, (0, 0, 0, rows - part.size(0)))
