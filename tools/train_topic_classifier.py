"""Train a topic classifier on labelled documents: word counts, tf-idf, linear SVC, calibrated; judged on a held-out tenth."""

from __future__ import annotations

import argparse
from pathlib import Path

from megatron_bielik.command import one_line_errors
from megatron_bielik.corpus.records import ReadCount, read_records
from megatron_bielik.corpus.topic_report import judge, split
from megatron_bielik.corpus.topics import train_topic_model
from megatron_bielik.data.fields import field_getter

EXAMPLES = """examples:
  python tools/generate_corpus.py --output topics.jsonl --megabytes 5
  python tools/train_topic_classifier.py --train topics.jsonl --output topics.npz
each line needs a text and a topic, whatever topics there are; scores go to topics.report.json
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--train", nargs="+", required=True, help="labelled .jsonl(.gz, .zst) or .parquet files")
    add("--output", type=Path, required=True, help="the model, NAME.npz")
    add("--text-key", default="text", help="key of the text (default text)")
    add("--topic-key", default="topic", help="key of the topic (default topic)")
    add("--words", type=int, default=15_000, help="vocabulary, the most frequent words (default 15000, as published)")
    add("--seed", type=int, default=42, help="of the SVC and the split (default 42)")
    args = parser.parse_args()
    with one_line_errors(ValueError):
        count, text_of = ReadCount(), field_getter(args.text_key)
        records = list(read_records(args.train, args.text_key, count))
        labelled = [(text_of(record), str(record.get(args.topic_key))) for record in records]
        train, held_out = split(labelled, 0.1, args.seed)
        texts, topics = [text for text, _ in train], [topic for _, topic in train]
        model = train_topic_model(texts, topics, args.words, args.seed)
        scores = judge(model, held_out, args.output.with_suffix(".report.json"))
        model.save(args.output)
    print(
        f"{args.output}: {len(model.classes)} topics, {len(model.words):,} words; held out: {scores.documents:,} documents, "
        f"accuracy {scores.accuracy:.3f}, macro-F1 {scores.macro_f1:.3f}, {scores.other:.1%} Other; {count.bad} bad records"
    )


if __name__ == "__main__":
    main()
