"""Build ahead the indices that megatron-core's data sets make at the start of a run: no GPU needed, equal to the last bit."""

from __future__ import annotations

import argparse
import math
import sys
import time

import numpy as np

from megatron_bielik.data.index import normalised
from megatron_bielik.data.index_cache import IndexCache, IndexRequest

EXAMPLES = """examples:
  python tools/build_index.py --shard data/all --samples 1000000 --sequence-length 4096 --seed 1234 --cache cache
  python tools/build_index.py --shard web books --weights 0.9 0.1 --samples 1000000 --sequence-length 4096 --cache cache
with several shards, a blend of --samples (rounded up by shard) and the indices of each shard with its share of them
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--shard", nargs="+", required=True, metavar="PREFIX", help="paths of shards without .bin/.idx")
    add("--weights", nargs="+", type=float, help="one for each shard (default: equal)")
    add("--samples", type=int, required=True, help="samples of the run")
    add("--sequence-length", type=int, required=True, help="tokens of a sample")
    add("--seed", type=int, default=1234, help="of the orders (default 1234)")
    add("--cache", required=True, help="folder for the indices")
    add("--surplus", type=float, default=0.005, help="share of samples built beyond a blend's (default 0.005)")
    args = parser.parse_args()
    weights = args.weights or [1.0] * len(args.shard)
    if len(weights) != len(args.shard) or not all(0 < weight < math.inf for weight in weights):
        sys.exit(f"error: --weights is {weights}, needs a number above 0 for each of {len(args.shard)} shards")
    if args.samples < 1:
        sys.exit(f"error: --samples is {args.samples}, needs 1 or more")
    cache, begun = IndexCache(args.cache, say=lambda line: print(line, file=sys.stderr)), time.monotonic()
    samples = [math.ceil(args.samples * share) for share in normalised(weights)]
    try:
        for prefix, count in zip(args.shard, samples, strict=True):
            wanted = count if len(samples) == 1 else math.ceil(count * (1 + args.surplus))
            index = cache.dataset(prefix, IndexRequest(wanted, args.sequence_length, args.seed))
            print(
                f"{prefix}: {len(index.shuffle):,} samples from {len(index.documents):,} documents, all epochs together"
            )
        if len(samples) > 1:
            taken = np.bincount(cache.blend(weights, sum(samples))[0], minlength=len(samples))
            print(
                f"blend: {sum(samples):,} samples, "
                + ", ".join(f"{n:,} {p}" for n, p in zip(taken, args.shard, strict=True))
            )
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{args.cache}: complete after {time.monotonic() - begun:.1f} s")


if __name__ == "__main__":
    main()
