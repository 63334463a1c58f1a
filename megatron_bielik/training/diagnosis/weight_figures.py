"""Figures of the weights in checkpoints, of pretraining or of Hugging Face form, one tensor in memory at a time."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from megatron_bielik.checkpoint_files import CheckpointError
from megatron_bielik.posttrain.checkpoints import all_complete, step_of
from megatron_bielik.training.diagnosis.history import History
from megatron_bielik.training.diagnosis.samples import checkpoints_of

if TYPE_CHECKING:
    import torch

_BLOCK = 1 << 24  # elements
_GROUPS = (
    ("norms", re.compile(r"norm")),
    ("embedding", re.compile(r"embed")),
    ("output", re.compile(r"output_layer|lm_head")),
    ("attention", re.compile(r"attention|attn")),
    ("mlp", re.compile(r"mlp")),
)


class Reader(Protocol):
    """Tensors of a checkpoint by name."""

    def read(self, key: str) -> torch.Tensor:
        """One whole tensor."""


@dataclass(frozen=True)
class TensorFigures:
    """What is kept of a tensor: sum of squares, number of elements and of those not finite, and a digest of its bytes."""

    squares: float
    elements: int
    not_finite: int
    matrix: bool
    digest: bytes


Figures = Mapping[str, TensorFigures]


def group_of(name: str) -> str:
    """Group of a parameter, by megatron-core's name or Hugging Face's."""
    return next((group for group, pattern in _GROUPS if pattern.search(name)), "others")


def group_norms(table: Figures) -> dict[str, float]:
    """L2 norm of each group of parameters."""
    sums: dict[str, float] = {}
    for name, figures in table.items():
        sums[group_of(name)] = sums.get(group_of(name), 0.0) + figures.squares
    return {group: math.sqrt(total) for group, total in sums.items()}


def run_checkpoints(history: History) -> dict[int, Path]:
    """Complete checkpoints by step, of pretraining or of Hugging Face form."""
    if history.method == "pretraining":
        return checkpoints_of(history.folder)
    return {step_of(path): path for path in all_complete(history.folder) if any(path.glob("model*.safetensors"))}


def chosen(places: Mapping[int, Path], most: int) -> dict[int, Path]:
    """The oldest, and the newest so many."""
    steps = sorted(places)
    return {step: places[step] for step in sorted({*steps[:1], *steps[-most:]})}


def measured(checkpoint: Path, progress: Callable[[int, int], None]) -> Figures:
    """Figures of every weight, one tensor in memory at a time; optimizer states are left out. Raises CheckpointError."""
    names, reader = _open(checkpoint)
    found = {}
    for number, name in enumerate(names, 1):
        found[name] = _figures(reader.read(name))
        progress(number, len(names))
    return found


def _open(checkpoint: Path) -> tuple[list[str], Reader]:
    from megatron_bielik.surgery.native_files import NativeReader
    from megatron_bielik.surgery.safetensors_files import ConversionError, SafetensorsReader

    if (checkpoint / ".metadata").is_file() or not any(checkpoint.glob("model*.safetensors")):
        native = NativeReader(checkpoint)
        names = native.keys()
        return [name for name in names if not name.startswith("optimizer.")], native
    try:
        reader = SafetensorsReader(checkpoint)
    except ConversionError as error:
        raise CheckpointError(str(error)) from None
    return list(reader.files), reader


def _figures(tensor: torch.Tensor) -> TensorFigures:
    import torch

    flat = tensor.detach().reshape(-1)
    squares, not_finite, digest = 0.0, 0, hashlib.blake2b(digest_size=16)
    for start in range(0, len(flat), _BLOCK):
        block = flat[start : start + _BLOCK].contiguous()
        digest.update(memoryview(block.view(torch.uint8).numpy()))
        wide = block.double()
        finite = wide.isfinite()
        not_finite += int((~finite).sum())
        squares += float((wide * wide)[finite].sum())
    return TensorFigures(squares, len(flat), not_finite, tensor.ndim > 1, digest.digest())
