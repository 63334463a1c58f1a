"""Concatenate token shards into one. Memory does not depend on their size; the output appears only when complete."""

from __future__ import annotations

import argparse
import sys

from megatron_bielik.data.shards import merge_shards

EXAMPLES = """examples:
  python tools/merge_shards.py --input data/web data/books --output data/all
  python tools/merge_shards.py --input data/part-* --output data/all     (suffixes are ignored, each shard counts once)
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", nargs="+", required=True, help="prefixes of shards, in the order wanted")
    parser.add_argument("--output", required=True, help="prefix of the new shard")
    args = parser.parse_args()
    prefixes = list(dict.fromkeys(name.removesuffix(".bin").removesuffix(".idx") for name in args.input))
    try:
        merged = merge_shards(prefixes, args.output)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{args.output}: {len(merged):,} documents, {merged.num_tokens:,} tokens from {len(prefixes)} shards")


if __name__ == "__main__":
    main()
