"""Best-fit packing: ours on many documents, and against TRL's "bfd" on fewer; equally full bins required.

TRL moves the tokens too, of one byte here. So there is also a peer that makes the plan alone, in Python: best-fit decreasing
with a sorted list of the rooms that are left and a queue of bins for each, as TRL's. It is the only one where TRL is not
installed. Each measurement has a process of its own; its peak is what that grew by while it packed, above the lengths.
"""

from __future__ import annotations

import argparse
import bisect
import hashlib
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from megatron_bielik.data.packing import pack

EXAMPLES = """examples:
  python tools/bench/packing.py                                      (100 million documents and 1 million: 3 minutes, 2 GB)
  python tools/bench/packing.py --documents 1000000 --compared 100000 --capacity 8192 --json packing.json
"""


def make_lengths(documents: int, capacity: int) -> np.ndarray:
    """Log-normal lengths, int32 [documents], 1 to capacity."""
    lengths = np.empty(documents, dtype=np.int32)
    rng = np.random.default_rng(0)
    for start in range(0, documents, 1 << 20):
        part = lengths[start : start + (1 << 20)]
        part[:] = np.clip(rng.lognormal(6, 1.2, len(part)), 1, capacity)
    return lengths


def ours(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """Tokens in each bin."""
    packing = pack(lengths, capacity)
    return np.add.reduceat(lengths[packing.items], packing.offsets[:-1])


def plain(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """One document at a time."""
    rooms: list[int] = []
    queues: dict[int, deque[list[int]]] = {}
    bins: list[list[int]] = []
    for item in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[item])
        at = bisect.bisect_left(rooms, length)
        if at < len(rooms):
            room = rooms[at]
            found = queues[room].popleft()
            if not queues[room]:
                del queues[room], rooms[at]
        else:
            room, found = capacity, []
            bins.append(found)
        found.append(item)
        if room - length not in queues:
            bisect.insort(rooms, room - length)
            queues[room - length] = deque()
        queues[room - length].append(found)
    return np.array([int(lengths[items].sum()) for items in bins])


def trl(lengths: np.ndarray, capacity: int) -> Callable[[], np.ndarray]:
    """TRL's function on tokens of one byte, which are made before it is timed."""
    import pyarrow as pa
    from trl.data_utils import _pack_bfd

    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    tokens = pa.array(np.zeros(offsets[-1], dtype=np.int8))
    table = pa.table({"input_ids": pa.LargeListArray.from_arrays(pa.array(offsets), tokens)})
    return lambda: np.diff(_pack_bfd(table, capacity)["input_ids"].chunks[0].offsets.to_numpy())


def status(key: str) -> int:
    """A line of /proc/self/status, KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])


def measure(side: str, documents: int, capacity: int) -> dict[str, Any]:
    """One side in this process."""
    lengths = make_lengths(documents, capacity)
    work: Callable[[], Any] = {
        "alone": lambda: pack(lengths, capacity),
        "ours": lambda: ours(lengths, capacity),
        "plain Python": lambda: plain(lengths, capacity),
    }.get(side) or trl(lengths, capacity)
    # Linux: the high-water mark begins again at what is resident now, the inputs and the modules.
    Path("/proc/self/clear_refs").write_text("5")
    before, begun = status("VmRSS"), time.perf_counter()
    result = work()
    seconds = time.perf_counter() - begun
    figures: dict[str, Any] = {"seconds": seconds, "peak_mib": (status("VmHWM") - before) / 1024}
    if side == "alone":
        return figures | {"bins": len(result), "efficiency": result.efficiency}
    filled = np.sort(result).astype(np.int64)
    figures |= {"bins": len(filled), "efficiency": float(filled.sum() / (len(filled) * capacity))}
    return figures | {"sha256": hashlib.sha256(filled.data).hexdigest()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--documents", type=int, default=100_000_000, help="packed by ours alone (default 100 million)")
    add("--compared", type=int, default=1_000_000, help="packed by every side (default 1 million)")
    add("--capacity", type=int, default=4096, help="tokens of a bin (default 4096)")
    add("--rounds", type=int, default=3, help="runs of each side, in turn (default 3)")
    add("--json", type=Path, help="write every figure here")
    add("--side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(measure(args.side, args.documents, args.capacity)))
        return

    sides = ["ours", "plain Python", *(["TRL"] if importlib.util.find_spec("trl") else [])]
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in ("alone", *sides)}
    for number in range(args.rounds):
        for side in ("alone", *(sides[::-1] if number % 2 else sides)):
            documents = args.documents if side == "alone" else args.compared
            command = [sys.executable, __file__, f"--documents={documents}", f"--capacity={args.capacity}"]
            done = subprocess.run([*command, f"--side={side}"], capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"error: {side} failed:\n{done.stderr[-3000:]}")
            runs[side].append(json.loads(done.stdout.splitlines()[-1]))
        if len({runs[side][-1]["sha256"] for side in sides}) != 1:
            sys.exit("error: the sides fill their bins differently")
    show(runs, args)
    if args.json:
        options = {"documents": args.documents, "compared": args.compared, "capacity": args.capacity}
        args.json.write_text(json.dumps({"options": options, "runs": runs}, indent=2) + "\n")


def show(runs: dict[str, list[dict[str, Any]]], args: argparse.Namespace) -> None:
    """Print medians and the ratios of each round."""
    table = Table(title=f"log-normal lengths into bins of {args.capacity}; medians of {args.rounds}")
    for column in ("", "documents", "seconds", "peak MiB", "bins", "filled", "ratio to ours (min, max)"):
        table.add_column(column, justify="right" if column else "left")
    for side, figures in runs.items():
        ratios = sorted(b["seconds"] / a["seconds"] for a, b in zip(runs["ours"], figures, strict=True))
        middle = [statistics.median(run[key] for run in figures) for key in ("seconds", "peak_mib")]
        table.add_row(
            "ours" if side == "alone" else side,
            f"{args.documents if side == 'alone' else args.compared:,}",
            f"{middle[0]:.2f}",
            f"{middle[1]:,.0f}",
            f"{figures[0]['bins']:,}",
            f"{figures[0]['efficiency']:.4%}",
            "" if side in ("alone", "ours") else f"{statistics.median(ratios):.0f} ({ratios[0]:.0f}, {ratios[-1]:.0f})",
        )
    Console(width=max(110, Console().width)).print(table)
    print("equally full bins on every side in every round")


if __name__ == "__main__":
    main()
