"""Score documents with a quality classifier and keep those that pass the thresholds; every other field stays as it is."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from megatron_bielik.command import one_line_errors, rate_line
from megatron_bielik.corpus.features import FeatureExtractor, default_cache
from megatron_bielik.corpus.quality import load_quality_model
from megatron_bielik.corpus.scoring import Thresholds, score_files

EXAMPLES = """examples:
  python tools/score_quality.py --model quality.json --input 'web/*.jsonl.zst' --output kept.jsonl.zst
  python tools/score_quality.py --model quality.json --input web.parquet --output scored.jsonl --keep-all
  python tools/score_quality.py --model quality.json --input synthetic.jsonl --output kept.jsonl --min-high 0.9 --min-medium 1
adds "quality": {"label", "low", "medium", "high"} to each record
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--input", nargs="+", required=True, help=".jsonl(.gz, .zst), .parquet or .txt files or quoted patterns")
    add("--output", type=Path, required=True, help=".jsonl, .jsonl.gz or .jsonl.zst")
    add("--model", type=Path, required=True, help="of tools/train_quality_classifier.py")
    add("--text-key", default="text", help="key of the text (default text)")
    add("--language", default="pl", help="language pack the model was trained with (default pl)")
    add("--min-high", type=float, default=0.5, help="keep when P(HIGH) is above (default 0.5)")
    add("--min-medium", type=float, default=0.8, help="or P(MEDIUM) is above (default 0.8; 1 never)")
    add("--keep-all", action="store_true", help="write every record, with its probabilities")
    add("--threads", type=int, default=1, help="for the features (default 1)")
    args = parser.parse_args()
    with one_line_errors(ValueError, ImportError):
        thresholds = Thresholds(args.min_high, args.min_medium)
        extractor = FeatureExtractor(args.language, default_cache(), args.threads)
        model = load_quality_model(args.model, extractor.version)
        with rate_line() as show:
            count = score_files(
                args.input,
                args.output,
                model,
                extractor,
                thresholds,
                args.text_key,
                args.keep_all,
                lambda count: show(count.read.records, count.text_bytes),
            )
    for line in count.read.first_bad:
        print(f"skipped {line}", file=sys.stderr)
    classes = ", ".join(f"{number:,} {label}" for label, number in count.classes.items())
    rate = count.text_bytes / 1e6 / max(count.seconds, 1e-9)
    print(
        f"{args.output}: kept {count.kept:,} of {count.read.records:,} documents ({classes}), {count.kept_bytes / 1e6:,.1f} "
        f"of {count.text_bytes / 1e6:,.1f} MB, {rate:.1f} MB/s; {count.read.bad:,} bad records skipped"
    )


if __name__ == "__main__":
    main()
