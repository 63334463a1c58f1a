"""Indices of data sets: ours against megatron-core's own functions on the same work, in turn, equal arrays required.

Ratios are of seconds from call to result, and of CPU seconds of all threads together. Each measurement has a process of its
own; its peak is what that grew by while the index was built, above its inputs. The sample index is also built straight into
a file: ours in blocks, megatron-core's as an array that is then saved.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from megatron_bielik.data import index as our_index
from megatron_bielik.data.index_cache import write_array

EXAMPLES = """examples:
  python tools/bench/index.py                                        (100 million documents: 15 minutes, 3 GB)
  python tools/bench/index.py --documents 10000000 --rounds 3 --threads 1 --json index.json
  python tools/bench/index.py --only "sample index" "blend of 64"
"""
SIDES = ("ours", "megatron-core")
SEQUENCE = 4096
Work = Callable[[], list[np.ndarray]]


def inputs(documents: int) -> tuple[np.ndarray, np.ndarray]:
    """Log-normal lengths int32 [documents], mean about 820 tokens, and a shuffled document index."""
    lengths = np.empty(documents, dtype=np.int32)
    rng = np.random.default_rng(0)
    for start in range(0, documents, 1 << 20):
        part = lengths[start : start + (1 << 20)]
        part[:] = rng.lognormal(6, 1.2, len(part))
    return lengths, our_index.build_document_index(range(documents), 1, np.random.RandomState(1), False)


def document_index(side: str, documents: int, threads: int) -> Work:
    from megatron.core.datasets.gpt_dataset import _build_document_index

    state, numbers = np.random.RandomState(1), np.arange(documents, dtype=np.int32)
    build = our_index.build_document_index if side == "ours" else _build_document_index
    return lambda: [build(numbers, 1, state, False), state.get_state(legacy=False)["state"]["key"]]


def sample_index(side: str, documents: int, threads: int, file: bool = False) -> Work:
    from megatron.core.datasets import helpers

    lengths, order = inputs(documents)
    tokens = int(lengths.sum(dtype=np.int64))
    rows = our_index.num_sample_rows(SEQUENCE, 1, tokens) + 1

    def in_memory() -> np.ndarray:
        if side == "ours":
            return our_index.build_sample_index(lengths, order, SEQUENCE, 1, tokens, threads=threads)
        return helpers.build_sample_idx(lengths, order, SEQUENCE, 1, tokens, True, True)

    def in_a_file() -> list[np.ndarray]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "samples.npy")
            if side == "ours":
                blocks = our_index.sample_index_blocks(lengths, order, SEQUENCE, rows, threads=threads)
                write_array(path, np.dtype(np.int32), (rows, 2), blocks)
            else:
                np.save(path, in_memory())
            return [np.load(path, mmap_mode="r")]  # stays readable without its name

    return in_a_file if file else lambda: [in_memory()]


def shuffle_index(side: str, documents: int, threads: int) -> Work:
    from megatron.core.datasets.gpt_dataset import _build_shuffle_index

    state = np.random.RandomState(1)
    build = our_index.build_shuffle_index if side == "ours" else _build_shuffle_index
    return lambda: [build(documents, documents, state), state.get_state(legacy=False)["state"]["key"]]


def blend(side: str, samples: int, threads: int, sets: int) -> Work:
    from megatron.core.datasets import helpers

    weights = np.array(our_index.normalised(np.random.default_rng(sets).lognormal(0, 1, sets).tolist()))

    def theirs() -> list[np.ndarray]:
        chosen, numbers = np.zeros(samples, np.int16), np.zeros(samples, np.int64)
        helpers.build_blending_indices(chosen, numbers, weights, sets, samples, False)
        return [chosen, numbers]

    return (lambda: list(our_index.build_blending_indices(weights, samples, threads))) if side == "ours" else theirs


WORK: dict[str, tuple[Callable[..., Work], float, dict[str, Any]]] = {
    "document index": (document_index, 1, {}),
    "sample index": (sample_index, 1, {}),
    "sample index, file": (sample_index, 1, {"file": True}),
    "shuffle index": (shuffle_index, 1, {}),
    "blend of 8": (blend, 1, {"sets": 8}),
    "blend of 64": (blend, 1, {"sets": 64}),
    "blend of 1000": (blend, 0.1, {"sets": 1000}),  # a tenth of the samples: megatron-core makes a million a second
}


def status(key: str) -> int:
    """A line of /proc/self/status, KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])


def measure(what: str, side: str, documents: int, threads: int) -> dict[str, Any]:
    """One index of one side, in this process."""
    import megatron_bielik.parallel  # noqa: F401  (hides megatron-core's notes about optional packages)

    make, share, options = WORK[what]
    make(side, 10, threads, **options)()  # imports and first calls
    work = make(side, max(1, int(documents * share)), threads, **options)
    # Linux: the high-water mark begins again at what is resident now, the inputs and the modules.
    Path("/proc/self/clear_refs").write_text("5")
    before, cpu, begun = status("VmRSS"), time.process_time(), time.perf_counter()
    arrays = work()
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    digest = hashlib.sha256()
    peak = (status("VmHWM") - before) / 1024
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return {"seconds": seconds, "cpu": cpu, "peak_mib": peak, "sha256": digest.hexdigest()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--documents", type=int, default=100_000_000, help="documents, and samples of blends (default 100 million)")
    add("--rounds", type=int, default=3, help="runs of each side, in turn (default 3)")
    add("--threads", type=int, default=our_index.default_threads(), help="of ours (default: cores, 8 at most)")
    add("--only", nargs="+", choices=WORK, default=list(WORK), help="some of the indices")
    add("--json", type=Path, help="write every figure here")
    add("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(measure(args.only[0], args.side, args.documents, args.threads)))
        return

    passed = [f"--documents={args.documents}", f"--threads={args.threads}"]
    runs: dict[str, dict[str, list[dict[str, Any]]]] = {what: {side: [] for side in SIDES} for what in args.only}
    for what in args.only:
        for number in range(args.rounds):
            for side in sorted(SIDES, reverse=bool(number % 2)):
                command = [sys.executable, __file__, *passed, "--only", what, f"--side={side}"]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    sys.exit(f"error: {side} failed:\n{done.stderr[-3000:]}")
                runs[what][side].append(json.loads(done.stdout.splitlines()[-1]))
            if len({runs[what][side][-1]["sha256"] for side in SIDES}) != 1:
                sys.exit(f"error: {what}: the two sides give different arrays")
    show(runs, args.documents, args.threads)
    if args.json:
        args.json.write_text(json.dumps({"options": passed, "runs": runs}, indent=2) + "\n")


def show(runs: dict[str, dict[str, list[dict[str, Any]]]], documents: int, threads: int) -> None:
    """Print medians of seconds and peaks, and the ratios of each round."""
    table = Table(title=f"{documents:,} documents or samples, {threads} threads; medians")
    for column in ("", "ours, s", "megatron-core, s", "ratio (min, max)", "of CPU", "ours, MiB", "megatron-core, MiB"):
        table.add_column(column, justify="right" if column else "left")
    for what, sides in runs.items():
        ours, peer = (sides[side] for side in SIDES)
        pairs = list(zip(ours, peer, strict=True))
        ratios = sorted(b["seconds"] / a["seconds"] for a, b in pairs)
        cpu = f"{statistics.median(b['cpu'] / a['cpu'] for a, b in pairs):.1f}"
        seconds, peaks = (
            [statistics.median(run[key] for run in side) for side in (ours, peer)] for key in ("seconds", "peak_mib")
        )
        spread = f"{statistics.median(ratios):.1f} ({ratios[0]:.1f}, {ratios[-1]:.1f})"
        table.add_row(what, *(f"{x:.2f}" for x in seconds), spread, cpu, *(f"{x:,.0f}" for x in peaks))
    Console(width=max(100, Console().width)).print(table)
    print("equal arrays, and equal random states after them, in every round")


if __name__ == "__main__":
    main()
