"""Train the HIGH / MEDIUM / LOW classifier on labelled documents and write a report of what it is worth."""

from __future__ import annotations

import argparse
from pathlib import Path

from megatron_bielik.command import one_line_errors
from megatron_bielik.corpus.features import FeatureExtractor, default_cache
from megatron_bielik.corpus.quality import QualityOptions, train_quality_model
from megatron_bielik.corpus.quality_data import labelled_features, parse_class_weights, split
from megatron_bielik.corpus.quality_report import write_report

EXAMPLES = """examples:
  python tools/train_quality_classifier.py --train labelled.jsonl --output quality.json
  python tools/train_quality_classifier.py --train train.jsonl --test test.jsonl hard.jsonl --output quality.json \\
      --objective ordinal --class-weights balanced
  python tools/train_quality_classifier.py --train train.jsonl --class-weights 1 3 1 --output quality.json
each line needs a text and a label, HIGH, MEDIUM or LOW; the report goes to quality.report/
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--train", nargs="+", required=True, help="labelled .jsonl(.gz, .zst) or .parquet files")
    add(
        "--test",
        nargs="+",
        default=[],
        help="labelled files to judge by, each for itself (default: a tenth of --train)",
    )
    add("--output", type=Path, required=True, help="the model, NAME.json; the report goes to NAME.report/")
    add("--text-key", default="text", help="key of the text (default text)")
    add("--label-key", default="label", help="key of the label (default label)")
    add("--language", default="pl", help="language pack (default pl), or the path of one")
    add("--objective", choices=["softprob", "ordinal"], default="softprob", help="as published, or ordered classes")
    add("--class-weights", nargs="+", default=["none"], help="none, balanced, or three numbers for LOW MEDIUM HIGH")
    add("--rounds", type=int, default=250, help="boosting rounds (default 250, as published)")
    add("--seed", type=int, default=42, help="of the trees and the split (default 42)")
    add("--threads", type=int, default=1, help="for features and trees; the result is the same")
    args = parser.parse_args()
    with one_line_errors(ValueError, ImportError):
        extractor = FeatureExtractor(args.language, default_cache(), args.threads)
        rows, labels = labelled_features(args.train, extractor, args.text_key, args.label_key)
        sets = {
            Path(name).stem: labelled_features([name], extractor, args.text_key, args.label_key) for name in args.test
        }
        if not sets:
            (rows, labels), sets["held out"] = split(rows, labels, 0.1, args.seed)
        options = QualityOptions(
            args.objective,
            parse_class_weights(args.class_weights),
            n_estimators=args.rounds,
            seed=args.seed,
            threads=args.threads,
        )
        model = train_quality_model(rows, labels, extractor.version, options)
        model.save(args.output)
        about = {
            "trained on": f"{len(labels):,} documents",
            "class weights": " ".join(args.class_weights),
            "rounds": args.rounds,
        }
        folder = args.output.with_suffix(".report")
        scores = write_report(folder, model, sets, about)
        extractor.save()
    for name, score in scores.items():
        recall = ", ".join(f"{label} {one.recall:.3f}" for label, one in score.classes.items())
        print(f"{name}: accuracy {score.accuracy:.3f}, macro-F1 {score.macro_f1:.3f}, recall {recall}")
    print(f"{args.output}; report in {folder}/report.md")


if __name__ == "__main__":
    main()
