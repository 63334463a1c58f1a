"""The demo's last word: a table of what was learnt and where everything lies, and the loss curve as a picture."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from megatron_bielik.data.shards import ShardReader
from megatron_bielik.data.statistics import unigram_entropy
from megatron_bielik.training.log import FILE_NAME, read_records
from megatron_bielik.training.plot import ReferenceLine, draw, load_run, save


def main() -> int:
    """Read the log, print the table, draw. Returns 1 where the loss has not come below the unigram entropy."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("run", "shard", "corpus", "export"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args()
    log = list(read_records(options.run / FILE_NAME))
    train = [record for record in log if record["type"] == "train"]
    held_out = [record["loss"] for record in log if record["type"] == "eval"]
    entropy = unigram_entropy(options.shard)
    rates = sorted(record["tokens_per_second_per_gpu"] for record in train)
    processes = 2

    curve = options.run / "loss.png"
    save(draw([load_run(options.run)], reference=ReferenceLine(entropy, "unigram entropy")), curve)

    table = Table(title="Demo", show_header=False, title_justify="left")
    rows = {
        "corpus": f"{options.corpus}, {options.corpus.stat().st_size / 1e6:.1f} MB",
        "shard": f"{options.shard}.bin, {ShardReader(options.shard).num_tokens:,} tokens",
        "loss, first step": f"{train[0]['loss']:.3f}",
        "loss, last step": f"{train[-1]['loss']:.3f} (step {train[-1]['step']}, {train[-1]['tokens']:,} tokens seen)",
        "loss, held-out documents": f"{held_out[-1]:.3f}" if held_out else "not evaluated",
        "unigram entropy": f"{entropy:.3f}  (the best loss without any context)",
        "tokens/s": f"{processes * rates[len(rates) // 2]:,.0f} over {processes} processes (median)",
        "checkpoints, log": f"{options.run}",
        "Hugging Face model": f"{options.export}",
        "loss curve": f"{curve}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    Console().print(table)
    if train[-1]["loss"] >= entropy:
        print(
            "the loss is not below the unigram entropy: the run was too short, or something is wrong", file=sys.stderr
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
