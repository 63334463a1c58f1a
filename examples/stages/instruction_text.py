"""Conversations as plain documents for the pretraining mixture: turns separated by blank lines, no roles, no control tokens."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from megatron_bielik.command import one_line_errors
from megatron_bielik.corpus.records import ReadCount, Record, dump, read_rows, record_writer

EXAMPLES = """example:
  python examples/stages/instruction_text.py --input 'data/chat/sft/*.parquet' --output data/shards/instruction.jsonl.zst
"""


def text_of(row: Record) -> str | None:
    """The contents of a row's messages; None where it has no messages with text."""
    messages = row.get("messages")
    if not isinstance(messages, list):
        return None
    contents = [message.get("content") for message in messages if isinstance(message, dict)]
    return "\n\n".join(content for content in contents if isinstance(content, str) and content.strip()) or None


def documents(patterns: Sequence[str], count: ReadCount) -> Iterator[Record]:
    """{"id", "text"} of each conversation; rows without text are counted and passed over."""
    for place, row in read_rows(patterns, count):
        text = text_of(row)
        if text is None:
            count.add_bad(place, "no messages with text")
        else:
            yield {"id": place, "text": text}


def main() -> None:
    """Parse, write, say how many."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", nargs="+", required=True, help='.jsonl(.gz, .zst) or .parquet with "messages"')
    parser.add_argument("--output", type=Path, required=True, help=".jsonl, .jsonl.gz or .jsonl.zst")
    args = parser.parse_args()
    count, written = ReadCount(), 0
    with one_line_errors(ValueError), record_writer(args.output) as stream:
        for document in documents(args.input, count):
            stream.write(dump(document))
            written += 1
    for line in count.first_bad:
        print(f"skipped {line}", file=sys.stderr)
    print(f"{args.output}: {written:,} documents, {count.bad:,} rows without text")


if __name__ == "__main__":
    main()
