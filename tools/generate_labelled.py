"""Write documents labelled HIGH, MEDIUM or LOW, for trying out the quality classifier without a labelled corpus."""

from __future__ import annotations

import argparse
from pathlib import Path

from megatron_bielik.command import one_line_errors
from megatron_bielik.corpus.labelled import LEVELS, labelled_document
from megatron_bielik.corpus.records import dump, record_writer

EXAMPLES = """examples:
  python tools/generate_labelled.py --output train.jsonl --documents 40000 --levels 1 2 3 4 --corruptions seen
  python tools/generate_labelled.py --output test.jsonl --documents 3000 --levels 5 --corruptions unseen --seed 1
  python tools/generate_labelled.py --output czech.jsonl --documents 3000 --language cs
each line is {"id", "text", "label", "level", "kind", "topic"}; the higher the level (1 to 5), the harder to tell
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help=".jsonl, .jsonl.gz or .jsonl.zst")
    parser.add_argument("--documents", type=int, required=True, help="how many")
    parser.add_argument("--levels", type=int, nargs="+", choices=LEVELS, default=list(LEVELS), help="taken in turn")
    parser.add_argument(
        "--corruptions",
        choices=["seen", "unseen", "all"],
        default="all",
        help="those kept for tests, the others, or all",
    )
    parser.add_argument("--seed", type=int, default=0, help="chooses the text (default 0)")
    parser.add_argument(
        "--language", default="pl", help="pl (default), cs, en, or the path of a pack (docs/languages.md)"
    )
    args = parser.parse_args()
    with one_line_errors(ValueError), record_writer(args.output) as stream:
        for index in range(args.documents):
            level = args.levels[index % len(args.levels)]
            stream.write(dump(labelled_document(args.seed, index, level, args.corruptions, args.language).record()))
    print(
        f"{args.output}: {args.documents:,} documents, levels {args.levels}, corruptions {args.corruptions}, seed {args.seed}"
    )


if __name__ == "__main__":
    main()
