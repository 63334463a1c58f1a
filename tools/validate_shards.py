"""Look through token shards: sizes, index, documents, token IDs, end-of-document tokens, checksums. One line a shard."""

from __future__ import annotations

import argparse
import os
import sys

from megatron_bielik.data.validate import validate

EXAMPLES = """examples:
  python tools/validate_shards.py demo/tokens                     (with demo/tokens.manifest.json, if it is there)
  python tools/validate_shards.py web.manifest.json               (all shards of the manifest)
  python tools/validate_shards.py others/part-* --vocab-size 32000
the exit code is 1 where a shard has a fault; the line names the first one and its document, counted from 0
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", nargs="+", help="manifests or prefixes; suffixes .bin and .idx are ignored")
    parser.add_argument("--vocab-size", type=int, help="IDs must be below this (default: what the manifest says)")
    parser.add_argument("--no-checksums", action="store_true", help="do not compare SHA-256: bound by the disk alone")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="shards at a time (default all cores)")
    args = parser.parse_args()
    faults = 0
    try:
        for shard in validate(args.shards, args.vocab_size, not args.no_checksums, args.threads):
            if shard.fault:
                faults += 1
                print(f"{shard.prefix}: FAULT: {shard.fault}", flush=True)
                continue
            known = [f"IDs below {shard.vocabulary:,}" if shard.vocabulary else "IDs not compared (no --vocab-size)"]
            known += [f"documents end with {shard.eod_id}"] * (shard.eod_id is not None)
            known += ["checksums equal" if shard.checksums else "no checksums"]
            counts = f"{shard.documents:,} documents, {shard.tokens:,} tokens, {shard.file_bytes / 1e6:,.1f} MB"
            print(f"{shard.prefix}: good, {counts}; {', '.join(known)}", flush=True)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
