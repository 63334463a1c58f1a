"""Give a Hugging Face model another tokenizer: new embedding and output rows by FOCUS or one of its rivals, on a CPU."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from megatron_bielik.command import one_line_errors, progress_bar
from megatron_bielik.data.documents import documents
from megatron_bielik.data.errors import DataError
from megatron_bielik.surgery.auxiliary_vectors import FastTextOptions, default_cache
from megatron_bielik.surgery.first_loss import Loss, first_losses, write_losses
from megatron_bielik.surgery.methods import METHODS, Initializer, Materials, Method
from megatron_bielik.surgery.model_folder import check_output, parse_size
from megatron_bielik.surgery.replace_tokenizer import replace_tokenizer
from megatron_bielik.surgery.safetensors_files import ConversionError
from megatron_bielik.tokenizer.vocabulary import VocabularyError

EXAMPLES = """examples:
  python tools/replace_tokenizer.py --model Qwen2.5-1.5B --tokenizer tokenizer --corpus 'pl/*.jsonl.zst' --output qwen-pl
  python tools/replace_tokenizer.py --model Qwen2.5-1.5B --tokenizer tokenizer --vectors tokens.vec --output qwen-pl \\
      --evaluate held-out.jsonl --compare mean fvt linear
  python tools/replace_tokenizer.py --model Qwen2.5-1.5B --tokenizer tokenizer --method ramen --dictionary d.tsv --output out"""


def arguments() -> argparse.Namespace:
    """Every option."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", type=Path, required=True, help="Hugging Face folder")
    add("--tokenizer", type=Path, required=True, help="folder of the new tokenizer")
    add("--output", type=Path, required=True, help="new folder; appears when it is complete")
    add("--method", choices=METHODS, default="focus", help="how rows are made (default focus)")
    add("--source-tokenizer", type=Path, help="folder of the old tokenizer; the model's by default")
    add("--corpus", nargs="+", default=[], help="text in the new language for fastText; files or patterns")
    add("--json-key", default="text", help="key or column of the text (default text)")
    add("--corpus-megabytes", type=float, help="read no more of the corpus; millions of bytes")
    add("--vectors", type=Path, help="vectors of the new tokens instead of a corpus: .vec, .npz or fastText .bin")
    add("--min-count", type=int, default=10, help="fastText: vectors for tokens seen this often (default 10)")
    add("--bucket", type=int, default=2_000_000, help="fastText: slots for n-grams, 400 bytes each (default 2 million)")
    add("--cache", type=Path, default=default_cache(), help="folder where trained vectors are kept")
    add("--reference", action="store_true", help="follow the published FOCUS code rule for rule")
    add("--source-word-vectors", type=Path, help="wechsel, ofa: vectors of the old language's words")
    add("--target-word-vectors", type=Path, help="wechsel, ofa: of the new language's words, in the same space")
    add("--dictionary", type=Path, help="ramen: lines of new word, old word, probability, by tabs")
    add("--factorized-dim", type=int, help="ofa: leading directions of the source matrix that are kept")
    add(
        "--keep-tied",
        action="store_true",
        help="leave a tied model tied; else the output matrix becomes one of its own",
    )
    add("--seed", type=int, default=42, help="of random rows (default 42)")
    add("--shard-size", default="5GB", help="largest safetensors file (default 5GB)")
    add("--evaluate", nargs="+", default=[], help="held-out text: first loss per character, as table and chart")
    add("--compare", nargs="+", choices=METHODS, default=[], help="methods to evaluate beside --method and random")
    add("--documents", type=int, default=64, help="evaluate on this many documents (default 64)")
    return parser.parse_args()


def main() -> None:
    """Replace, report, and evaluate if asked."""
    given = arguments()
    compared = list(dict.fromkeys([given.method, *given.compare, "random"]))
    with one_line_errors(ConversionError, VocabularyError, DataError):
        initializer = Initializer(
            Materials(
                source=given.source_tokenizer or given.model,
                target=given.tokenizer,
                cache=given.cache,
                corpus=tuple(given.corpus),
                json_key=given.json_key,
                max_bytes=None if given.corpus_megabytes is None else int(given.corpus_megabytes * 1e6),
                fasttext=FastTextOptions(minCount=given.min_count, bucket=given.bucket),
                vectors=given.vectors,
                source_words=given.source_word_vectors,
                target_words=given.target_word_vectors,
                dictionary=given.dictionary,
                factorized_dim=given.factorized_dim,
                reference=given.reference,
            )
        )
        initializer.check(compared)
        check_output(given.output)
        # Before the model is written: an evaluation that is stopped leaves nothing half done.
        losses = evaluate(initializer, given, compared) if given.evaluate else []
        with progress_bar(given.method) as progress:
            report = replace_tokenizer(
                initializer, given.model, given.method, given.output, given.keep_tied, given.seed,
                parse_size(given.shard_size), progress,
            )  # fmt: skip
        if losses:
            write_losses(losses, given.output)
    Console().print(report.table())
    for loss in sorted(losses, key=lambda loss: loss.per_character):
        print(f"{loss.name:>8}: {loss.per_character:.4f} nats per character, {loss.per_token:.4f} per token")
    print(f"{report.parameters:,} parameters -> {given.output}")
    if report.note:
        print(f"note: {report.note}")


def evaluate(initializer: Initializer, given: argparse.Namespace, methods: list[Method]) -> list[Loss]:
    """The first loss of the model as it is and of every method."""
    held_out = documents(given.evaluate, given.json_key, option="--evaluate")
    with Console(stderr=True).status("evaluating") as status:
        return first_losses(
            initializer, given.model, methods, held_out, given.documents, given.seed,
            progress=lambda name: status.update(f"evaluating {name}"),
        )  # fmt: skip


if __name__ == "__main__":
    main()
