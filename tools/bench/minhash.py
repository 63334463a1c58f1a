"""Near duplicates: ours against datatrove's steps on the same texts and words, paired rounds, equal results required.

Two figures a side. The signature step, from documents to its finished files: MinhashSignature against
MinhashDedupSignature, files equal byte for byte. The whole route on one machine, from texts to clusters: find_duplicates
against datatrove's signature, bucket and cluster steps, clusters equal. CPU seconds are those of one process with one
thread; each side runs in its own process, and its peak is what that process grew by while it worked.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import xxhash
from datatrove.data import Document
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupSignature,
)
from loguru import logger
from rich.console import Console
from rich.table import Table

from megatron_bielik.corpus.duplicates import MinhashSignature, find_duplicates
from megatron_bielik.corpus.minhash import SpaceWords, simplify_tables
from megatron_bielik.corpus.synthetic import generate_document

EXAMPLES = """examples:
  python tools/bench/minhash.py --megabytes 10 --rounds 3
  python tools/bench/minhash.py --megabytes 50 --documents-joined 5 --json minhash.json     (documents of about 5 kB)
"""
SIDES = ("ours", "datatrove")


def make_texts(size: int, joined: int, seed: int) -> list[str]:
    """Texts of about `size` bytes in all; a third are near duplicates with up to 12% of their words changed."""
    texts: list[str] = []
    rng, written, index = Random(seed), 0, 0
    while written < size:
        if texts and rng.random() < 1 / 3:
            words = rng.choice(texts).split(" ")
            for _ in range(int(len(words) * rng.random() * 0.12)):
                words[rng.randrange(len(words))] = "inaczej"
            text = " ".join(words)
        else:
            text = "\n".join(generate_document(seed, index + i)["text"] for i in range(joined))
            index += joined
        texts.append(text)
        written += len(text.encode())
    return texts


def peer_step(folder: Path) -> MinhashDedupSignature:
    """datatrove's step on the same words; its xxhash64 gets bytes, since xxhash 4 refuses the str it is given."""
    step = MinhashDedupSignature(str(folder), MinhashConfig(), SpaceWords())
    step._hash_func = lambda text: xxhash.xxh64_intdigest(text.encode())
    return step


def status(key: str) -> int:
    """A line of /proc/self/status, KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """CPU seconds and seconds of a call."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def peer_route(step: MinhashDedupSignature, texts: list[str], folder: Path) -> np.ndarray:
    """datatrove's three steps; returns the first document of each one's cluster."""
    config = MinhashConfig()
    step.run((Document(text, id="") for text in texts), 0, 1)
    for bucket in range(config.num_buckets):
        MinhashDedupBuckets(str(folder / "sigs"), str(folder / "pairs"), config=config, lines_to_buffer=-1).run(
            None, bucket, config.num_buckets
        )
    MinhashDedupCluster(str(folder / "pairs"), str(folder / "out"), config, save_cluster_id=True).run(None, 0, 1)
    first = np.arange(len(texts))
    seen: dict[int, int] = {}
    for document, cluster in struct.iter_unpack("<2I", (folder / "out/000000.clusters").read_bytes()):
        first[document] = seen.setdefault(cluster, document)
    return first


def measure(side: str, size: int, joined: int, seed: int) -> dict[str, float | str]:
    """Both figures of one side, in this process."""
    logger.remove()
    texts = make_texts(size, joined, seed)
    simplify_tables()
    # Linux: the high-water mark begins again at what is resident now, the texts and the modules.
    Path("/proc/self/clear_refs").write_text("5")
    start = status("VmRSS")
    with tempfile.TemporaryDirectory() as name:
        folder, first = Path(name), []
        step = MinhashSignature(f"{name}/sigs") if side == "ours" else peer_step(folder / "sigs")
        step_cpu, step_wall = timed(lambda: step.run((Document(text, id="") for text in texts), 0, 1))
        if side == "ours":
            route_cpu, route_wall = timed(lambda: first.append(find_duplicates(texts).first))
        else:
            route_cpu, route_wall = timed(lambda: first.append(peer_route(step, texts, folder)))
        files = hashlib.sha256(b"".join(path.read_bytes() for path in sorted((folder / "sigs").rglob("*.sig"))))
    return {
        "step_cpu": step_cpu,
        "step_seconds": step_wall,
        "route_cpu": route_cpu,
        "route_seconds": route_wall,
        "peak_mib": (status("VmHWM") - start) / 1024,
        "files": files.hexdigest(),
        "clusters": hashlib.sha256(first[0].tobytes()).hexdigest(),
        "documents": len(texts),
        "removed": int((first[0] != np.arange(len(texts))).sum()),
        "megabytes": sum(len(text.encode()) for text in texts) / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=float, default=10, help="text, millions of bytes (default 10)")
    parser.add_argument("--documents-joined", type=int, default=3, help="generated documents in one (default 3)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side, in turn (default 3)")
    parser.add_argument("--seed", type=int, default=0, help="chooses the texts (default 0)")
    parser.add_argument("--json", type=Path, help="write every figure here")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(measure(args.side, int(args.megabytes * 1e6), args.documents_joined, args.seed)))
        return

    passed = [f"--megabytes={args.megabytes}", f"--documents-joined={args.documents_joined}", f"--seed={args.seed}"]
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for number in range(args.rounds):
        for side in sorted(SIDES, reverse=bool(number % 2)):
            done = subprocess.run(
                [sys.executable, __file__, *passed, f"--side={side}"], capture_output=True, text=True, check=False
            )
            if done.returncode:
                sys.exit(f"error: {side} failed:\n{done.stderr[-3000:]}")
            runs[side].append(json.loads(done.stdout.splitlines()[-1]))
        for what in ("files", "clusters"):
            if runs["ours"][-1][what] != runs["datatrove"][-1][what]:
                sys.exit(f"error: the two sides give different {what}")
    show(runs)
    if args.json:
        args.json.write_text(json.dumps({"options": passed, "runs": runs}, indent=2) + "\n")


def show(runs: dict[str, list[dict[str, float]]]) -> None:
    """Print medians and the ratios of each round."""
    size, documents, removed = (runs["ours"][0][key] for key in ("megabytes", "documents", "removed"))
    table = Table(
        title=f"{size:.1f} MB, {documents:,} documents, {removed:,} near duplicates; medians of MB per second"
    )
    for column in ("", "signature step, CPU", "texts to clusters, CPU", "texts to clusters", "peak MiB"):
        table.add_column(column, justify="right" if column else "left")
    keys = ("step_cpu", "route_cpu", "route_seconds")
    for side in SIDES:
        rates = [f"{size / statistics.median(run[key] for run in runs[side]):.1f}" for key in keys]
        table.add_row(side, *rates, f"{statistics.median(run['peak_mib'] for run in runs[side]):.0f}")
    Console().print(table)
    for key, words in zip(keys, ("signature step, CPU", "texts to clusters, CPU", "texts to clusters"), strict=True):
        ratios = sorted(peer[key] / ours[key] for ours, peer in zip(runs["ours"], runs["datatrove"], strict=True))
        middle = statistics.median(ratios)
        print(f"{words}: ratio datatrove/ours min {ratios[0]:.1f}  median {middle:.1f}  max {ratios[-1]:.1f}")
    print("equal signature files and equal clusters in every round")


if __name__ == "__main__":
    main()
