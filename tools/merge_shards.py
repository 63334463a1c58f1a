"""Concatenate token shards of one tokenizer into one, which appears only when complete. Memory does not depend on sizes."""

from __future__ import annotations

import argparse
import sys

from megatron_bielik.data.merge import merge

EXAMPLES = """examples:
  python tools/merge_shards.py --input data/web data/books --output data/all
  python tools/merge_shards.py --input web.manifest.json data/books --output data/all   (all shards of the manifest)
  python tools/merge_shards.py --input data/part-* --output data/all     (suffixes are ignored, each shard counts once)
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", nargs="+", required=True, help="manifests, prefixes of shards, in the order wanted")
    parser.add_argument("--output", required=True, help="prefix of the new shard")
    args = parser.parse_args()
    try:
        merged, count, has_manifest = merge(args.input, args.output)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    note = "" if has_manifest else "; no manifest, as not every shard has one"
    print(f"{args.output}: {len(merged):,} documents, {merged.num_tokens:,} tokens from {count} shards{note}")


if __name__ == "__main__":
    main()
