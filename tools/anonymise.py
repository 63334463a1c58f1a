"""Take personal data out of text: placeholders such as <EMAIL>, or made-up values of the same format."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from megatron_bielik.command import one_line_errors, rate_line
from megatron_bielik.corpus.anonymise import KINDS, Anonymiser
from megatron_bielik.corpus.records import ReadCount, dump, read_records, record_writer, with_results
from megatron_bielik.data.fields import field_getter, replace_field

EXAMPLES = """examples:
  python tools/anonymise.py --input web.jsonl --output clean.jsonl
  python tools/anonymise.py --input 'web/*.parquet' --output clean.jsonl.zst --mode substitute --seed 7
  python tools/anonymise.py --input mail.txt --output clean.jsonl --types email phone pesel
adds "personal_data": {kind: count} to each record
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--input", nargs="+", required=True, help=".jsonl(.gz, .zst), .parquet or .txt files or quoted patterns")
    add("--output", type=Path, required=True, help=".jsonl, .jsonl.gz or .jsonl.zst; appears when complete")
    add("--mode", default="placeholder", help="placeholder (default) or substitute")
    add("--types", nargs="+", metavar="TYPE", help=f"some of {', '.join(KINDS)} (default: all)")
    add("--seed", type=int, default=0, help="chooses the substitutes; keep it to get the same again")
    add("--text-key", default="text", help="key of the text, a.b for one inside another (default text)")
    args = parser.parse_args()
    found, count, text_of = Counter[str](), ReadCount(), field_getter(args.text_key)
    with one_line_errors(ValueError):
        anonymiser = Anonymiser(args.mode, args.types, args.seed)
        with rate_line() as show, record_writer(args.output) as stream:
            for record in read_records(args.input, args.text_key, count):
                made = anonymiser.anonymise(text_of(record))
                found.update(made.found)
                replace_field(record, args.text_key, made.text)
                stream.write(dump(with_results(record, {"personal_data": made.found})))
                if count.records % 256 == 0:
                    show(count.records, count.characters)
    for line in count.first_bad:
        print(f"skipped {line}", file=sys.stderr)
    kinds = ", ".join(f"{kind} {number:,}" for kind, number in found.most_common()) or "no personal data"
    print(f"{args.output}: {count.records:,} documents; {kinds}; {count.bad:,} bad records skipped")


if __name__ == "__main__":
    main()
