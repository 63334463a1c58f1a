"""Linear merging of three models: ours against mergekit as whole processes, in turns, with equal inputs in one run.

The models are made on the spot: Qwen2 of random bf16 weights, about 1 GB each, in 300 MB shards. A process is timed from its
start to its end, and its peak memory is the kernel's account of it (VmHWM of /proc, read until it ends, children included).
Both results are compared with the sum in float64, rounded once. mergekit is a program of its own, best in an environment of
its own: python -m venv mk && mk/bin/pip install mergekit; then --mergekit mk/bin/mergekit-yaml.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import torch
import yaml
from rich.console import Console
from rich.table import Table

from megatron_bielik.presets import PRESETS, ModelShape
from megatron_bielik.surgery.architecture import mappings
from megatron_bielik.surgery.hf_config import write_config
from megatron_bielik.surgery.safetensors_files import SafetensorsReader, write_safetensors
from megatron_bielik.surgery.weighted_sums import round_once

EXAMPLES = """examples:
  python tools/bench/merge.py --mergekit mk/bin/mergekit-yaml
  python tools/bench/merge.py --mergekit mk/bin/mergekit-yaml --layers 2 --rounds 1      (a look, 0.4 GB each)
"""
WEIGHTS = (0.5, 0.3, 0.2)
TOOL = Path(__file__).parents[1] / "merge_models.py"
LIMIT_SECONDS = 600


@dataclass
class Contender:
    """A command that merges into the folder that is its last argument."""

    command: list[str]
    seconds: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)
    differing: float = 0.0


def make_model(folder: Path, shape: ModelShape, seed: int, shard_bytes: int) -> int:
    """Write a model of random weights, a tensor at a time; returns its bytes."""
    shapes = {name: size for m in mappings(shape) for name, size in zip(m.theirs, m.their_shapes, strict=True)}
    generator = torch.Generator().manual_seed(seed)

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        for name, size in shapes.items():
            yield name, torch.randn(size, generator=generator).mul_(0.02).bfloat16()

    folder.mkdir()
    write_safetensors(folder, shapes, torch.bfloat16, tensors(), shard_bytes)
    write_config(folder, shape, "bfloat16")
    return sum(path.stat().st_size for path in folder.iterdir())


def measure(command: list[str]) -> tuple[float, int]:
    """Seconds and peak bytes of a process: the sum of its own peak and those of its children. Exits where it fails."""
    begun = time.perf_counter()
    peaks: dict[int, int] = {}
    with tempfile.TemporaryFile() as errors:
        process = psutil.Popen(command, stdout=errors, stderr=errors)
        while process.poll() is None:
            try:
                for member in [process, *process.children(recursive=True)]:
                    peaks[member.pid] = max(peaks.get(member.pid, 0), _peak(member.pid))
            except (psutil.NoSuchProcess, OSError):
                pass
            if time.perf_counter() - begun > LIMIT_SECONDS:
                process.kill()
            time.sleep(0.01)
        seconds = time.perf_counter() - begun
        if process.returncode:
            errors.seek(0)
            sys.exit(f"error: {command[0]} failed ({process.returncode}): {errors.read().decode()[-2000:]}")
    return seconds, sum(peaks.values())


def _peak(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)


def share_of_wrong_elements(sources: list[Path], result: Path) -> float:
    """Share of elements whose bits are not those of the float64 sum, rounded once to bf16."""
    readers, found = [SafetensorsReader(folder) for folder in sources], SafetensorsReader(result)
    wrong = total = 0
    for name in readers[0].files:
        exact = sum(weight * reader.read(name).double() for weight, reader in zip(WEIGHTS, readers, strict=True))
        assert isinstance(exact, torch.Tensor)
        expected = round_once(exact, torch.bfloat16, torch.empty_like(exact))
        wrong += int((expected.view(torch.int16) != found.read(name).view(torch.int16)).sum())
        total += expected.numel()
    return wrong / total


def contenders(mergekit: str, sources: list[Path], folder: Path) -> dict[str, Contender]:
    """Both commands, without the output folder."""
    models = [{"model": str(path), "parameters": {"weight": w}} for path, w in zip(sources, WEIGHTS, strict=True)]
    recipe = {"merge_method": "linear", "dtype": "bfloat16", "parameters": {"normalize": True}, "models": models}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    ours = [sys.executable, str(TOOL), "--models", *map(str, sources), "--weights", *map(str, WEIGHTS)]
    # Their shards are counted in parameters: 150M of them are 300 MB.
    theirs = [mergekit, str(folder / "recipe.yaml"), "--out-shard-size", "150M", "--no-copy-tokenizer", "--quiet"]
    return {"ours": Contender([*ours, "--shard-size", "300MB", "--output"]), "mergekit": Contender(theirs)}


def report(sides: dict[str, Contender], size: int, rounds: int) -> dict[str, object]:
    """Print the table; returns its numbers."""
    table = Table(title=f"linear merge of three models of {size / 1e9:.2f} GB, bf16, {rounds} rounds")
    for column in ("", "seconds (median)", "min", "max", "peak memory, MiB", "not correctly rounded"):
        table.add_column(column, justify="right" if column else "left")
    rows = {}
    for who, side in sides.items():
        middle, peak = statistics.median(side.seconds), max(side.peaks)
        low, high = min(side.seconds), max(side.seconds)
        table.add_row(
            who, f"{middle:.2f}", f"{low:.2f}", f"{high:.2f}", f"{peak / 2**20:,.0f}", f"{side.differing:.4%}"
        )
        rows[who] = {"seconds": side.seconds, "peak_bytes": side.peaks, "share_not_correctly_rounded": side.differing}
    Console().print(table)
    ratios = sorted(b / a for a, b in zip(sides["ours"].seconds, sides["mergekit"].seconds, strict=True))
    memory = max(sides["ours"].peaks) / max(sides["mergekit"].peaks)
    print(f"ratio mergekit/ours: min {ratios[0]:.2f}  median {statistics.median(ratios):.2f}  max {ratios[-1]:.2f}")
    print(f"peak memory ours/mergekit: {memory:.2f}")
    return {"model_bytes": size, "rows": rows, "ratios": ratios, "memory_ratio": memory, "torch": torch.__version__}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mergekit", help="mergekit-yaml of mergekit's environment; by default the one on PATH")
    parser.add_argument("--layers", type=int, default=12, help="of each model (default 12, about 1 GB)")
    parser.add_argument("--rounds", type=int, default=3, help="pairs of runs (default 3)")
    parser.add_argument(
        "--folder", type=Path, help="where the models are put while it runs (default: the temporary one)"
    )
    parser.add_argument("--output", type=Path, help="also write the numbers as JSON")
    args = parser.parse_args()
    program = shutil.which(args.mergekit or "mergekit-yaml")
    if program is None:
        print(f"error: {args.mergekit or 'mergekit-yaml'} not found: pip install mergekit, --mergekit", file=sys.stderr)
        sys.exit(2)

    shape = replace(PRESETS["qwen2.5-1.5b"], num_layers=args.layers, vocab_size=32_000)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        sources = [folder / f"model-{number}" for number in range(3)]
        size = max(make_model(path, shape, seed, 300 * 10**6) for seed, path in enumerate(sources))
        sides = contenders(program, sources, folder)
        for number in range(args.rounds):
            for who, side in sides.items():
                result = folder / f"{who}-result"
                seconds, peak = measure([*side.command, str(result)])
                side.seconds.append(seconds)
                side.peaks.append(peak)
                if number == args.rounds - 1:
                    side.differing = share_of_wrong_elements(sources, result)
                shutil.rmtree(result)
        numbers = report(sides, size, args.rounds)
    if args.output:
        args.output.write_text(json.dumps(numbers, indent=2) + "\n")


if __name__ == "__main__":
    main()
