"""Text to shard: ours against a Megatron-style loop on the same generated text, paired rounds, equal tokens required.

The peer is written here after Megatron's preprocess_data: json.loads and one call of the Hugging Face fast tokenizer per
document in the workers (Pool.imap, chunks of 32), IndexedDatasetBuilder in the parent. It uses `tokenizers` directly,
which is faster than going through transformers. Both are timed from the call to finished files, processes included.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path
from random import Random

import numpy as np
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

import megatron_bielik.parallel  # noqa: F401  (hides megatron-core's notes about optional packages)
from megatron_bielik.corpus.synthetic import generate_document
from megatron_bielik.data.encode import load_tokenizer
from megatron_bielik.data.preprocess import PreprocessOptions, preprocess
from megatron_bielik.data.shards import ShardReader, token_dtype
from megatron_bielik.tokenizer.byte_level import train_byte_level, write_byte_level
from megatron_bielik.tokenizer.train import build_tokenizer

EXAMPLES = """examples:
  python tools/bench/preprocess.py --megabytes 100 --workers 2 --rounds 5
  python tools/bench/preprocess.py --tokenizer byte-level --vocab-size 32000 --rare-words 0.1
  python tools/bench/preprocess.py --tokenizer llama --vocab-size 32000
rare words are random syllables put into the grammar's text: real text has a long tail of words, which a cache cannot hold
"""
_CONSONANTS, _VOWELS = "b c d f g h j k l ł m n p r s t w z sz cz rz ch", "a e i o u y ą ę ó"
_SYLLABLES = [consonant + vowel for consonant in _CONSONANTS.split() for vowel in _VOWELS.split()]


def make_text(path: Path, size: int, rare_words: float, seed: int) -> int:
    """Write jsonl of about `size` bytes; a share of the words is made of random syllables. Returns bytes of text."""
    written, index, rng = 0, 0, Random(seed)
    with path.open("w", encoding="utf-8") as stream:
        while written < size:
            document = generate_document(seed, index)
            words = document["text"].split(" ")
            for at in range(len(words)):
                if rng.random() < rare_words:
                    words[at] += " " + "".join(rng.choices(_SYLLABLES, k=rng.randint(2, 5)))
            document["text"] = " ".join(words)
            written += len(document["text"].encode())
            stream.write(json.dumps(document, ensure_ascii=False) + "\n")
            index += 1
    return written


def make_tokenizer(kind: str, vocab_size: int, text: Path, folder: Path) -> int:
    """Train a tokenizer of the kind on the beginning of the text; returns its size."""
    with text.open(encoding="utf-8") as stream:
        texts = [json.loads(line)["text"] for line in stream.readlines(10_000_000)]
    if kind == "llama":
        return build_tokenizer([text.encode() for text in texts], vocab_size, folder).entries
    tokenizer = train_byte_level(texts, vocab_size)
    folder.mkdir()
    write_byte_level(tokenizer, folder)
    return tokenizer.get_vocab_size()


_peer_tokenizer: Tokenizer | None = None
_peer_eod = 0


def _peer_start(path: str, eod: int) -> None:
    global _peer_tokenizer, _peer_eod
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _peer_tokenizer, _peer_eod = Tokenizer.from_file(path), eod


def _peer_encode(line: str) -> list[int]:
    assert _peer_tokenizer is not None
    ids: list[int] = _peer_tokenizer.encode(json.loads(line)["text"], add_special_tokens=False).ids
    if ids:
        ids.append(_peer_eod)
    return ids


def run_peer(text: Path, folder: Path, prefix: Path, workers: int) -> float:
    """The Megatron-style loop; returns seconds."""
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    files = load_tokenizer(folder)
    begun = time.perf_counter()
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=token_dtype(files.vocab_size))
    start = (str(folder / "tokenizer.json"), files.eos_id)
    # fork, as Megatron's Pool: it starts faster than spawn.
    with (
        multiprocessing.get_context("fork").Pool(workers, _peer_start, start) as pool,
        text.open(encoding="utf-8") as f,
    ):
        for ids in pool.imap(_peer_encode, f, 32):
            if ids:
                builder.add_document(ids, [len(ids)])
    builder.finalize(f"{prefix}.idx")
    return time.perf_counter() - begun


def run_ours(text: Path, folder: Path, prefix: Path, workers: int) -> float:
    """preprocess() from options to finished files; returns seconds."""
    begun = time.perf_counter()
    preprocess(
        PreprocessOptions((str(text),), str(folder), str(prefix), workers, piece_bytes=16_000_000, overwrite=True)
    )
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=float, default=60, help="text, millions of bytes (default 60)")
    parser.add_argument("--workers", type=int, default=2, help="processes of each side (default 2)")
    parser.add_argument("--rounds", type=int, default=3, help="pairs of runs (default 3)")
    parser.add_argument(
        "--tokenizer", choices=["byte-level", "llama"], default="byte-level", help="kind (default byte-level)"
    )
    parser.add_argument("--vocab-size", type=int, default=32_000, help="entries (default 32000)")
    parser.add_argument("--rare-words", type=float, default=0.05, help="share of random words (default 0.05)")
    parser.add_argument("--seed", type=int, default=0, help="chooses the text (default 0)")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        text, folder = Path(name, "text.jsonl"), Path(name, "tokenizer")
        size = make_text(text, int(args.megabytes * 1e6), args.rare_words, args.seed) / 1e6
        entries = make_tokenizer(args.tokenizer, args.vocab_size, text, folder)
        times: dict[str, list[float]] = {"ours": [], "peer": []}
        for number in range(args.rounds):
            ours, peer = Path(name, f"ours-{number}"), Path(name, f"peer-{number}")
            times["ours"].append(run_ours(text, folder, ours, args.workers))
            times["peer"].append(run_peer(text, folder, peer, args.workers))
            first, second = ShardReader(ours), ShardReader(peer)
            if not (np.array_equal(first.tokens, second.tokens) and np.array_equal(first.lengths, second.lengths)):
                raise SystemExit("error: the two give different tokens")
            tokens = first.num_tokens / 1e6
            for prefix in (ours, peer):
                Path(f"{prefix}.bin").unlink()

    table = Table(title=f"{size:.1f} MB, {tokens:.2f} Mtokens, {args.tokenizer} {entries:,}, {args.workers} workers")
    for column in ("", "seconds (median)", "MB/s", "Mtokens/s"):
        table.add_column(column, justify="right" if column else "left")
    for who, seconds in times.items():
        middle = statistics.median(seconds)
        table.add_row(who, f"{middle:.2f}", f"{size / middle:.1f}", f"{tokens / middle:.2f}")
    Console().print(table)
    ratios = sorted(peer / ours for ours, peer in zip(times["ours"], times["peer"], strict=True))
    middle = statistics.median(ratios)
    print(
        f"ratio peer/ours: min {ratios[0]:.1f}  median {middle:.1f}  max {ratios[-1]:.1f}; equal tokens in every round"
    )


if __name__ == "__main__":
    main()
