"""Compare tokenizers on texts: tokens, characters per token, tokens per word, unknown and byte rates, encoding speed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from megatron_bielik.tokenizer.compare import compare, load_tokenizer, read_text
from megatron_bielik.tokenizer.compare_report import table, write_chart, write_json

EXAMPLES = """examples:
  python tools/compare_tokenizers.py --tokenizer ours=tokenizer qwen=Qwen2.5-1.5B --text pl=pl.jsonl en=en.txt.gz
  python tools/compare_tokenizers.py --tokenizer a b --text pl.jsonl --json out/compare.json --chart out/compare.png
a word is what stands between white space; bytes are <0xNN> tokens, line ends not counted, or in byte-level vocabularies
tokens that are no whole characters
"""


def named(value: str) -> tuple[str, str]:
    """NAME=PATH, or a path that names itself."""
    name, separator, path = value.partition("=")
    return (name, path) if separator else (Path(value).name, value)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    folders = "folders with tokenizer.json, or with tokenizer.model alone"
    add("--tokenizer", nargs="+", type=named, required=True, metavar="NAME=DIR", help=folders)
    files = "files or quoted patterns; .jsonl and .txt, also .gz or .zst, and .parquet"
    add("--text", nargs="+", type=named, required=True, metavar="NAME=FILE", help=files)
    add("--json-key", default="text", help="key of the text in JSON lines, parquet column (default text)")
    add("--max-megabytes", type=float, default=10, help="read the beginning of each text (default 10)")
    add("--rounds", type=int, default=3, help="speed is the best of so many (default 3)")
    add("--json", type=Path, help="write all counts here")
    add("--chart", type=Path, help="draw a bar chart here; .png, .svg or .pdf")
    args = parser.parse_args()
    try:
        tokenizers = [load_tokenizer(name, Path(folder)) for name, folder in args.tokenizer]
        texts = [read_text(name, path, int(args.max_megabytes * 1e6), args.json_key) for name, path in args.text]
        measurements = compare(tokenizers, texts, args.rounds)
        if args.json:
            write_json(measurements, args.json)
        if args.chart:
            write_chart(measurements, args.chart)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    # Redirected into a file the table shall not be folded to 80 columns.
    Console(width=None if sys.stdout.isatty() else 140).print(table(measurements))


if __name__ == "__main__":
    main()
