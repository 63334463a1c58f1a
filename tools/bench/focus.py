"""FOCUS's combination step beside that of the authors' package deepfocus, on the same made-up vectors and rows.

12,000 anchors with source rows of width 2048 (fp32), 20,000 new tokens, auxiliary vectors of 100 dimensions drawn around a
few hundred centres, as those of words are. Each side runs in a process of its own, from vectors in memory to the finished
matrix of 32,000 rows; time is that step alone, without imports and without the compilation of deepfocus's numba code, which
is warmed up first; memory is the process's peak.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table

EXAMPLES = """examples:
  pip install deepfocus           # the peer; `make venv` has it
  python tools/bench/focus.py
  python tools/bench/focus.py --new 2000 --anchors 1000 --hidden 256 --runs 1     # a quick look"""


def problem(options: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Vectors of new tokens [n, d] and of anchors [m, d], and the anchors' rows [m, hidden]; the same for a seed."""
    generator = torch.Generator().manual_seed(options.seed)
    centres = torch.randn(300, options.dim, generator=generator)
    new, anchors = (
        centres[torch.randint(300, (count,), generator=generator)]
        + torch.randn(count, options.dim, generator=generator)
        for count in (options.new, options.anchors)
    )
    return new, anchors, 0.02 * torch.randn(options.anchors, options.hidden, generator=generator)


def ours(new: torch.Tensor, anchors: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """This package: [n + m, hidden], anchors first."""
    from megatron_bielik.surgery.combinations import SourceMatrix, new_rows
    from megatron_bielik.surgery.focus import TokenVectors, focus

    known = range(len(anchors))
    vectors = TokenVectors(torch.arange(len(anchors) + len(new)), torch.cat([anchors, new]))
    made = focus(len(anchors) + len(new), dict(zip(known, known, strict=True)), set(known), vectors)
    out, start = torch.empty(len(made.combinations), rows.size(1)), 0
    for block in new_rows(made, SourceMatrix.of_tensor(rows)):
        out[start : start + len(block)] = block
        start += len(block)
    return out


def deepfocus(new: torch.Tensor, anchors: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The authors' function for additional tokens, given what their own code would give it."""
    from deepfocus.focus import focus_additional_token_initialization

    def token(number: int, vector: np.ndarray, row: torch.Tensor | None) -> Any:
        return SimpleNamespace(target=SimpleNamespace(id=number), auxiliary_embedding=vector, source_embedding=row)

    out = torch.zeros(len(anchors) + len(new), rows.size(1))
    out[: len(anchors)] = rows
    known = {n: token(n, vector, row) for n, (vector, row) in enumerate(zip(anchors.numpy(), rows, strict=True))}
    added = {n: token(len(anchors) + n, vector, None) for n, vector in enumerate(new.numpy())}
    return focus_additional_token_initialization(known, added, out, device="cpu")


SIDES = {"ours": ours, "deepfocus": deepfocus}


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Run one side in this process and leave its matrix in a file."""
    function, (new, anchors, rows) = SIDES[options.side], problem(options)
    function(new[:2], anchors[:3], rows[:3])
    started = time.perf_counter()
    out = function(new, anchors, rows)
    seconds = time.perf_counter() - started
    np.save(options.result, out.numpy())
    status = Path("/proc/self/status").read_text()
    peak = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
    return {"seconds": seconds, "peak_mib": peak / 1024}


def main() -> int:
    """Measure both, in turn, and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--new", type=int, default=20_000, help="tokens to combine (default 20,000)")
    parser.add_argument("--anchors", type=int, default=12_000, help="shared tokens (default 12,000)")
    parser.add_argument("--hidden", type=int, default=2048, help="width of a row (default 2048)")
    parser.add_argument("--dim", type=int, default=100, help="of the auxiliary vectors (default 100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=3, help="of each side, in turn (default 3)")
    parser.add_argument("--output", type=Path, default=Path("focus.json"), help="JSON with every figure")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measure(options)))
        return 0
    if not importlib.util.find_spec("deepfocus"):
        print("error: the peer is not installed: pip install deepfocus", file=sys.stderr)
        return 2
    results: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    passed = [f"--{name}={getattr(options, name)}" for name in ("new", "anchors", "hidden", "dim", "seed")]
    files = {side: options.output.with_suffix(f".{side}.npy").absolute() for side in SIDES}
    try:
        for run in range(options.runs):
            for side in sorted(SIDES, reverse=bool(run % 2)):
                command = [sys.executable, __file__, *passed, f"--side={side}", f"--result={files[side]}"]
                done = subprocess.run(command, capture_output=True, text=True, timeout=900)
                if done.returncode:
                    print(f"error: {side} failed:\n{done.stderr[-3000:]}", file=sys.stderr)
                    return 1
                results[side].append(json.loads(done.stdout.splitlines()[-1]))
        first, second = (np.load(files[side], mmap_mode="r") for side in SIDES)
        difference = float(np.abs(first - second).max())
    finally:
        for file in files.values():
            file.unlink(missing_ok=True)
    return show(options, results, difference)


def show(options: argparse.Namespace, results: dict[str, list[dict[str, float]]], difference: float) -> int:
    """Print the table and write the JSON."""
    medians = {
        side: {key: float(np.median([run[key] for run in runs])) for key in runs[0]} for side, runs in results.items()
    }
    ratio = medians["deepfocus"]["seconds"] / medians["ours"]["seconds"]
    table = Table(
        "", "seconds", "peak MiB", box=box.SIMPLE_HEAD, title=f"{options.new:,} new tokens, {options.anchors:,} anchors"
    )
    for side, figures in medians.items():
        table.add_row(side, f"{figures['seconds']:.2f}", f"{figures['peak_mib']:,.0f}")
    Console().print(table)
    print(
        f"{ratio:.1f} times faster; largest difference {difference:.1e}; medians of {options.runs} runs, "
        f"{torch.get_num_threads()} threads"
    )
    written = {
        "options": {k: v for k, v in vars(options).items() if isinstance(v, int)},
        "runs": results,
        "difference": difference,
    }
    options.output.write_text(json.dumps(written, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
