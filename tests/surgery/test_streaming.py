"""Conversion streams: the peak memory of a process that converts a model does not grow with the model."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from megatron_bielik.presets import PRESETS, ModelShape
from megatron_bielik.surgery.architecture import mappings
from megatron_bielik.surgery.hf_config import write_config
from megatron_bielik.surgery.safetensors_files import write_safetensors

ROOT = Path(__file__).parents[2]
MIB = 2**20
LARGE = ModelShape("bielik", 24, 1024, 2816, 8, 2, 4000, 64, tie_embeddings=False, head_dim=128)
# VmHWM is the peak of this process alone; getrusage's ru_maxrss begins with that of the process that started it.
PROGRAM = """
import sys
from pathlib import Path
from megatron_bielik.surgery.convert import export_hf, import_hf
{"import": import_hf, "export": export_hf}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads Linux's account of the peak")


def write_model(folder: Path, shape: ModelShape, shard_bytes: int) -> int:
    """A random bf16 model, written without holding it. Returns its bytes."""
    shapes = {name: size for m in mappings(shape) for name, size in zip(m.theirs, m.their_shapes, strict=True)}
    noise = torch.randn(max(torch.Size(size).numel() for size in shapes.values()), dtype=torch.bfloat16)

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        for name, size in shapes.items():
            yield name, noise[: torch.Size(size).numel()].view(size)

    folder.mkdir()
    write_safetensors(folder, shapes, torch.bfloat16, tensors(), shard_bytes)
    write_config(folder, shape, "bfloat16")
    return 2 * shape.num_parameters()


def peak(direction: str, source: Path, output: Path) -> int:
    """Peak resident bytes of a process that converts."""
    command = [sys.executable, "-c", PROGRAM, direction, str(source), str(output)]
    done = subprocess.run(command, cwd=ROOT, timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout) * 1024


def test_peak_memory(tmp_path: Path) -> None:
    """Peak over that of a tiny conversion: a few matrices, where the model has half a gigabyte."""
    size = write_model(tmp_path / "large", LARGE, 200 * 10**6)
    write_model(tmp_path / "tiny", replace(PRESETS["tiny"], num_layers=1), 10**9)
    largest_layer = 2 * LARGE.layer_parameters()
    assert size > 500 * MIB
    assert largest_layer < 25 * MIB
    over = {}
    for direction, source, suffix in (("import", "large", "c"), ("export", "largec", "h")):
        base = peak(
            direction,
            tmp_path / source.replace("large", "tiny"),
            tmp_path / f"{source}{suffix}".replace("large", "tiny"),
        )
        over[direction] = peak(direction, tmp_path / source, tmp_path / f"{source}{suffix}") - base
    assert max(over.values()) < largest_layer + 64 * MIB, {name: value / MIB for name, value in over.items()}
