"""Take personal data out of text: placeholders such as <EMAIL>, or made-up values of the same format. Output is jsonl."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from megatron_bielik.corpus.anonymise import KINDS, Anonymiser
from megatron_bielik.data.documents import documents
from megatron_bielik.data.errors import write_error

EXAMPLES = """examples:
  python tools/anonymise.py --input web.jsonl --output clean.jsonl
  python tools/anonymise.py --input 'web/*.parquet' --output clean.jsonl --mode substitute --seed 7
  python tools/anonymise.py --input mail.txt --output clean.jsonl --types email phone pesel
each line is {"text": ..., "personal_data": {kind: count}}; inputs: .jsonl, .jsonl.gz, .jsonl.zst, .parquet, .txt
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", nargs="+", required=True, help="files or quoted patterns")
    parser.add_argument("--output", type=Path, required=True, help="JSON lines; appears when complete")
    parser.add_argument("--mode", default="placeholder", help="placeholder (default) or substitute")
    parser.add_argument("--types", nargs="+", metavar="TYPE", help=f"some of {', '.join(KINDS)} (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="chooses the substitutes; keep it to get the same again")
    parser.add_argument("--json-key", default="text", help="key or column of the text (default text)")
    parser.add_argument(
        "--txt-split", choices=["file", "blank-line"], default="file", help="what ends a document in .txt"
    )
    args = parser.parse_args()
    found, count = Counter[str](), 0
    temporary = args.output.with_name(args.output.name + ".tmp")
    try:
        anonymiser = Anonymiser(args.mode, args.types, args.seed)
        texts = documents(args.input, args.json_key, txt_split=args.txt_split)
        try:
            with temporary.open("w", encoding="utf-8") as stream:
                for text in texts:
                    made = anonymiser.anonymise(text)
                    found.update(made.found)
                    count += 1
                    line = {"text": made.text, "personal_data": made.found}
                    stream.write(json.dumps(line, ensure_ascii=False) + "\n")
            temporary.replace(args.output)
        except OSError as error:
            raise write_error(args.output, error) from error
        finally:
            temporary.unlink(missing_ok=True)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    kinds = ", ".join(f"{kind} {number:,}" for kind, number in found.most_common()) or "no personal data"
    print(f"{args.output}: {count:,} documents; {kinds}")


if __name__ == "__main__":
    main()
