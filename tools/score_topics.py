"""Give each document its topic and the probability of it; "Other" where that is below the least one."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from megatron_bielik.command import one_line_errors, rate_line
from megatron_bielik.corpus.records import ReadCount, batches, dump, read_records, record_writer, with_results
from megatron_bielik.corpus.topics import TopicError, load_topic_model
from megatron_bielik.data.fields import field_getter

EXAMPLES = """examples:
  python tools/score_topics.py --model topics.npz --input 'kept/*.jsonl.zst' --output with-topics.jsonl.zst
adds "predicted_topic" and "topic_probability" to each record
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--input", nargs="+", required=True, help=".jsonl(.gz, .zst), .parquet or .txt files or quoted patterns")
    add("--output", type=Path, required=True, help=".jsonl, .jsonl.gz or .jsonl.zst")
    add("--model", type=Path, required=True, help="of tools/train_topic_classifier.py")
    add("--text-key", default="text", help="key of the text (default text)")
    add(
        "--least",
        type=float,
        default=0.2,
        help='below this probability the topic is "Other" (default 0.2, as published)',
    )
    args = parser.parse_args()
    count, topics, text_of = ReadCount(), Counter[str](), field_getter(args.text_key)
    with one_line_errors(ValueError):
        if not 0 <= args.least <= 1:
            raise TopicError(f"--least is {args.least}, needs 0 to 1")
        model = load_topic_model(args.model)
        with rate_line() as show, record_writer(args.output) as stream:
            for batch in batches(read_records(args.input, args.text_key, count), 512):
                found = model.topics([text_of(record) for record in batch], args.least)
                for record, (topic, probability) in zip(batch, found, strict=True):
                    topics[topic] += 1
                    result = {"predicted_topic": topic, "topic_probability": round(probability, 4)}
                    stream.write(dump(with_results(record, result)))
                show(count.records, count.characters)
    for line in count.first_bad:
        print(f"skipped {line}", file=sys.stderr)
    most = ", ".join(f"{number:,} {topic}" for topic, number in topics.most_common(10))
    print(f"{args.output}: {count.records:,} documents ({most}); {count.bad:,} bad records skipped")


if __name__ == "__main__":
    main()
