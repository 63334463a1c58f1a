"""Write synthetic text of any size: grammar-made documents on eight topics, the same bytes for the same seed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from megatron_bielik.corpus.synthetic import write_corpus

EXAMPLES = """examples:
  python tools/generate_corpus.py --output demo/corpus.jsonl --megabytes 20
  python tools/generate_corpus.py --output corpus.jsonl.zst --megabytes 1000 --seed 7
  python tools/generate_corpus.py --output english.jsonl --megabytes 20 --language en
each line is {"id": ..., "topic": ..., "text": ...}
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help=".jsonl, .jsonl.gz or .jsonl.zst; folders are made")
    parser.add_argument("--megabytes", type=float, required=True, help="uncompressed size, millions of bytes")
    parser.add_argument("--seed", type=int, default=0, help="chooses the text (default 0)")
    parser.add_argument(
        "--language", default="pl", help="pl (default), cs, en, or the path of a pack (docs/languages.md)"
    )
    args = parser.parse_args()
    size = int(args.megabytes * 1e6)
    columns = (TextColumn("generating"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    try:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        with Progress(*columns, transient=True, console=console, disable=not console.is_terminal) as bar:
            task = bar.add_task("generating", total=size)
            documents = write_corpus(
                args.output, size, args.seed, lambda count: bar.advance(task, count), args.language
            )
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{args.output}: {documents:,} documents, {size / 1e6:,.1f} MB of text, seed {args.seed}")


if __name__ == "__main__":
    main()
