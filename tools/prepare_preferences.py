"""Raw preference pairs to clean ones for DPO: checked, swapped where inverted, far enough apart, no near duplicates."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from megatron_bielik.command import one_line_errors
from megatron_bielik.posttrain.preferences import PreferenceOptions, prepare_preferences, table

EXAMPLES = """examples:
  python tools/prepare_preferences.py --input 'raw/*.jsonl.zst' --output pairs.jsonl --report pairs.report.json
  python tools/prepare_preferences.py --input ultrafeedback.parquet --output pairs.jsonl \\
      --chosen-score score_chosen --rejected-score score_rejected --min-gap 1.5
  python tools/prepare_preferences.py --input human.jsonl --output pairs.jsonl --no-scores --near-duplicates pair

a row: {"prompt": text or messages, "chosen": text or messages, "rejected": text or messages, "chosen_score": 9.0,
"rejected_score": 4.5}; without "prompt" it is what chosen and rejected begin with in common
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--input", nargs="+", required=True, help=".jsonl(.gz, .zst) or .parquet files or quoted patterns")
    add("--output", type=Path, required=True, help=".jsonl, .jsonl.gz or .jsonl.zst; appears when complete")
    add("--report", type=Path, help="JSON file for the counts of every step")
    add("--chosen-score", default="chosen_score", help="field with the score of chosen (default chosen_score)")
    add("--rejected-score", default="rejected_score", help="the same for rejected (default rejected_score)")
    add("--min-gap", type=float, default=2.0, help="drop pairs whose scores are closer (default 2.0, of 0 to 10)")
    add("--no-scores", action="store_true", help="take rows without scores as they are")
    choices = ("prompt", "pair", "none")
    add("--near-duplicates", choices=choices, default="prompt", help="alike in what; pair: prompt and chosen answer")
    add("--threads", type=int, default=1, help="that look for near duplicates (default 1)")
    args = parser.parse_args()
    with one_line_errors(ValueError, ImportError):
        options = PreferenceOptions(
            args.chosen_score, args.rejected_score, args.min_gap, args.no_scores, args.near_duplicates
        )
        report = prepare_preferences(args.input, args.output, options, args.report, args.threads)
    for line in report.first_bad:
        print(f"skipped {line}", file=sys.stderr)
    print("\n".join(table(report)))
    print(f"{args.output}: {report.rows_out:,} of {report.rows_in:,} pairs")


if __name__ == "__main__":
    main()
