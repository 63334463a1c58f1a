"""Train a tokenizer of APT4's kind: SentencePiece BPE with byte fallback, as tokenizer.model and as a fast tokenizer.json."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TransferSpeedColumn

from megatron_bielik.tokenizer.train import TrainOptions, train_tokenizer

EXAMPLES = """examples:
  python tools/train_tokenizer.py --input demo/corpus.jsonl --vocab-size 2048 --output demo/tokenizer
  python tools/train_tokenizer.py --input 'pl/*.jsonl.zst=0.9' 'en/*.txt.gz=0.1' --max-megabytes 2000 --output tokenizer
weights are shares of the sample's bytes: they hold exactly, and an input that holds too little makes the sample smaller
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = "files or quoted patterns, each with =WEIGHT or none; .jsonl and .txt, also .gz or .zst, and .parquet"
    parser.add_argument("--input", nargs="+", required=True, metavar="GLOB[=WEIGHT]", help=kinds)
    parser.add_argument(
        "--vocab-size", type=int, default=32_000, help="entries, special tokens included (default 32000)"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--json-key", default="text", help="key of the text in JSON lines, parquet column (default text)"
    )
    parser.add_argument("--max-megabytes", type=float, default=1000, help="random sample to train on (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="chooses the sample (default 0)")
    args = parser.parse_args()
    options = TrainOptions(
        tuple(args.input), args.output, args.vocab_size, int(args.max_megabytes * 1e6), args.seed, args.json_key
    )
    begun, console = time.monotonic(), Console(stderr=True)
    columns = (TextColumn("text read"), DownloadColumn(), TransferSpeedColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, transient=True, console=console, disable=not console.is_terminal) as bar:
            task = bar.add_task("", total=None)
            done = train_tokenizer(
                options,
                lambda line: bar.console.print(line, highlight=False, markup=False, soft_wrap=True),
                lambda count: bar.advance(task, count),
            )
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted: nothing was written")
    print(
        f"{args.output}: {done.entries:,} entries in {time.monotonic() - begun:.1f} s; on the sample "
        f"{done.characters_per_token:.2f} characters per token, {done.byte_rate:.2%} of tokens are bytes"
    )


if __name__ == "__main__":
    main()
