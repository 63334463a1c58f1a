"""Turn text into token shards (.bin, .idx) that megatron-core reads. Stopped at any point, the same command goes on."""

from __future__ import annotations

import argparse
import os
import sys
import time

from megatron_bielik.data.preprocess import PreprocessOptions, preprocess

EXAMPLES = """examples:
  python tools/preprocess_data.py --input demo/corpus.jsonl --tokenizer demo/tokenizer --output-prefix demo/tokens
  python tools/preprocess_data.py --input web.jsonl.zst --tokenizer bielik --output-prefix web --shard-tokens 2_000_000_000
  python tools/preprocess_data.py --input 'web/*.jsonl.zst' wiki.parquet --tokenizer bielik --output-prefix all --workers 16
inputs: .jsonl, .jsonl.gz, .jsonl.zst, .parquet, .txt; special tokens written out in a text become special tokens
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--input", nargs="+", required=True, help="files or quoted patterns; the output keeps their order")
    add("--tokenizer", required=True, help="Hugging Face folder with tokenizer.json")
    add("--output-prefix", required=True, help="path of the shard without .bin/.idx")
    add("--workers", type=int, default=os.cpu_count() or 1, help="encoding processes (default: all cores)")
    add("--json-key", default="text", help="key or column of the text, a.b for one inside another (default text)")
    add("--no-append-eod", action="store_true", help="do not put the eos token after every document")
    add("--on-error", choices=["skip", "fatal"], default="skip", help="what a bad line does (default skip: counted)")
    add("--max-bad-share", type=float, default=0.1, help="share of bad lines above which nothing is made (default 0.1)")
    add("--piece-megabytes", type=float, help="input of one piece of work (default 16 to 64, by the inputs' size)")
    add("--txt-split", choices=["file", "blank-line"], default="file", help="what ends a document in .txt files")
    add(
        "--encoder",
        choices=["auto", "gigatoken", "tokenizers"],
        default="auto",
        help="auto takes the fastest right one",
    )
    add(
        "--shard-tokens",
        type=int,
        help="the most tokens of a shard: PREFIX-00000 and so on (default one shard, PREFIX)",
    )
    add("--overwrite", action="store_true", help="replace the result or pieces of other inputs or options")
    args = parser.parse_args()
    kept = {key: value for key, value in vars(args).items() if key in PreprocessOptions.__dataclass_fields__}
    kept |= {"inputs": tuple(args.input), "append_eod": not args.no_append_eod}
    piece_bytes = None if args.piece_megabytes is None else int(args.piece_megabytes * 1e6)
    options = PreprocessOptions(**kept, piece_bytes=piece_bytes)
    begun = time.monotonic()
    try:
        summary = preprocess(options, say=lambda line: print(line, file=sys.stderr))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted: finished pieces are kept, the same command goes on")
    seconds = time.monotonic() - begun
    for line in summary.first_bad_records[:20]:
        print(f"skipped {line}", file=sys.stderr)
    shards = f"{len(summary.shards)} shard" + "s" * (len(summary.shards) > 1)
    print(
        f"{args.output_prefix}: {shards}, {summary.documents:,} documents, {summary.tokens:,} tokens ({summary.dtype}), "
        f"{summary.text_bytes / 1e6:,.1f} MB of text in {seconds:.1f} s; {summary.bytes_per_token:.2f} bytes per token, "
        f"{summary.tokens_per_word_sampled:.2f} tokens per word; skipped {summary.bad_records:,} bad records and "
        f"{summary.empty_documents:,} empty documents; {summary.special_tokens_in_text:,} special tokens in the text"
    )


if __name__ == "__main__":
    main()
