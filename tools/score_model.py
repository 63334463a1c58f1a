"""Score a model on held-out rows of your own: form of answers, preferences, rewards of problems, loss on plain text."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from megatron_bielik.command import one_line_errors

EXAMPLES = """examples:
  python tools/score_model.py --model sft/final --conversations held-out.jsonl --output sft.json
  python tools/score_model.py --model grpo/final --problems problems.jsonl --pairs pairs.jsonl --output grpo.json
  python tools/score_model.py --model base --texts pl=held-out-pl.jsonl en=held-out-en.jsonl --output base.json
conversations have kind, messages and form (a regular expression), pairs prompt, chosen and rejected, problems messages and
answer, texts text. For public benchmarks: tools/evaluate.py
"""


def named_path(text: str) -> tuple[str, Path]:
    """NAME=FILE."""
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FILE")
    return name, Path(path)


def main() -> None:
    """Score, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", type=Path, required=True, help="Hugging Face folder")
    add("--output", type=Path, required=True, help=".json to write")
    add("--texts", type=named_path, nargs="+", default=[], metavar="NAME=FILE", help="nats per character of these")
    add("--conversations", type=Path, help="form and exactness of greedy answers, loss of the expected ones")
    add("--pairs", type=Path, help="how often the chosen answer is the likelier one")
    add("--problems", type=Path, help="share of greedy answers that are right")
    add("--documents", type=int, default=64, help="of each text, at most (default 64)")
    add("--answer-tokens", type=int, default=64, help="of an answer to a problem, at most (default 64)")
    args = parser.parse_args()
    if not (args.texts or args.conversations or args.pairs or args.problems):
        parser.error("nothing to score on: give --texts, --conversations, --pairs or --problems")
    from megatron_bielik.corpus.records import write_whole
    from megatron_bielik.data.errors import DataError
    from megatron_bielik.evaluation.chat_scores import HeldOut, score
    from megatron_bielik.posttrain.errors import RunError

    held_out = HeldOut(
        dict(args.texts), args.conversations, args.pairs, args.problems, args.documents, args.answer_tokens
    )
    with one_line_errors(ValueError, RunError, DataError):
        args.output.parent.mkdir(parents=True, exist_ok=True)  # before minutes are spent
        scores = score(args.model, held_out, lambda part: print(f"{args.model}: {part}", file=sys.stderr))
        write_whole(args.output, json.dumps(scores, indent=2, ensure_ascii=False) + "\n")
    print(json.dumps(scores, ensure_ascii=False))


if __name__ == "__main__":
    main()
