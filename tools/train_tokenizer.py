"""Train a small byte-level BPE tokenizer with APT4's special tokens; writes a Hugging Face folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from megatron_bielik.tokenizer.train import read_texts, save_tokenizer, train_tokenizer

EXAMPLES = """examples:
  python tools/train_tokenizer.py --input demo/corpus.jsonl --vocab-size 2048 --output demo/tokenizer
  python tools/train_tokenizer.py --input web-*.jsonl.zst --vocab-size 32000 --max-megabytes 2000 --output tokenizer
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", nargs="+", type=Path, required=True, help=".jsonl, .jsonl.gz, .jsonl.zst or .txt")
    parser.add_argument("--vocab-size", type=int, default=2048, help="entries, special tokens included (default 2048)")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--json-key", default="text", help="key of the text in a JSON line (default text)")
    parser.add_argument("--max-megabytes", type=float, help="read no more text than this, millions of bytes")
    args = parser.parse_args()
    limit = None if args.max_megabytes is None else int(args.max_megabytes * 1e6)
    try:
        tokenizer = train_tokenizer(read_texts(args.input, args.json_key, limit), args.vocab_size)
        save_tokenizer(tokenizer, args.output)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{args.output}: {tokenizer.get_vocab_size():,} entries")


if __name__ == "__main__":
    main()
