"""Text to shard: ours against a Megatron-style loop, and one worker against several, on the same text in paired rounds.

The peer is written here after Megatron's preprocess_data: json.loads and one call of the Hugging Face fast tokenizer per
document in the workers (Pool.imap, chunks of 32), IndexedDatasetBuilder in the parent. It uses `tokenizers` directly,
which is faster than going through transformers, and is timed from the call to finished files, its processes forked.
Ours is the command tools/preprocess_data.py as a whole, from starting Python to its end. Equal tokens are required of the
peer in every round, and of `tokenizers` on the beginning of the text where there is no peer.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

import megatron_bielik.parallel  # noqa: F401  (hides megatron-core's notes about optional packages)
from megatron_bielik.corpus.synthetic import generate_document
from megatron_bielik.data.encode import load_tokenizer
from megatron_bielik.data.shards import ShardReader, token_dtype
from megatron_bielik.tokenizer.byte_level import train_byte_level, write_byte_level
from megatron_bielik.tokenizer.train import build_tokenizer

EXAMPLES = """examples:
  python tools/bench/preprocess.py --megabytes 200 --rounds 3 --tokenizer llama          (peer, one and two workers)
  python tools/bench/preprocess.py --megabytes 200 --rounds 5 --no-peer --tokenizer llama
  python tools/bench/preprocess.py --megabytes 1000 --rounds 1 --no-peer --json figures.json   (memory of 1 GB)
rare words are random syllables put into the grammar's text: real text has a long tail of words, which a cache cannot hold
"""
_TOOL = Path(__file__).parents[1] / "preprocess_data.py"
_CONSONANTS, _VOWELS = "b c d f g h j k l ł m n p r s t w z sz cz rz ch", "a e i o u y ą ę ó"
_SYLLABLES = [consonant + vowel for consonant in _CONSONANTS.split() for vowel in _VOWELS.split()]
_CHECKED_BYTES = 10_000_000


@dataclass(frozen=True)
class Timing:
    """One run: wall and CPU seconds of all its processes, and the most memory that they had together, RSS in MB."""

    seconds: float
    cpu: float
    rss: float


def make_text(path: Path, size: int, rare_words: float, seed: int) -> None:
    """Write jsonl of about `size` bytes of text; a share of the words is made of random syllables."""
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


class _Memory:
    """Samples the memory of this process's descendants; of this process itself too if asked. RSS counts shared pages
    once for every process that has them."""

    def __init__(self, own: bool) -> None:
        self.peak, self._own, self._end = 0, own, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        me = psutil.Process()
        while not self._end.wait(0.05):
            total = me.memory_info().rss if self._own else 0
            for child in me.children(recursive=True):
                try:
                    total += child.memory_info().rss
                except psutil.Error:
                    continue
            self.peak = max(self.peak, total)

    def __enter__(self) -> _Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def _cpu() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def run_peer(text: Path, folder: Path, prefix: Path, workers: int) -> Timing:
    """The Megatron-style loop."""
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    files = load_tokenizer(folder)
    start = (str(folder / "tokenizer.json"), files.eos_id)
    with _Memory(own=True) as memory:
        begun, cpu = time.perf_counter(), _cpu()
        builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=token_dtype(files.vocab_size))
        # fork, as Megatron's Pool: it starts faster than spawn.
        with (
            multiprocessing.get_context("fork").Pool(workers, _peer_start, start) as pool,
            text.open(encoding="utf-8") as stream,
        ):
            for ids in pool.imap(_peer_encode, stream, 32):
                if ids:
                    builder.add_document(ids, [len(ids)])
            pool.close()
            pool.join()
        builder.finalize(f"{prefix}.idx")
        seconds = time.perf_counter() - begun
    return Timing(seconds, _cpu() - cpu, memory.peak / 1e6)


def run_ours(text: Path, folder: Path, prefix: Path, workers: int) -> Timing:
    """The command."""
    command = [sys.executable, str(_TOOL), "--input", str(text), "--tokenizer", str(folder), "--workers", str(workers)]
    with _Memory(own=False) as memory:
        begun, cpu = time.perf_counter(), _cpu()
        subprocess.run([*command, "--output-prefix", str(prefix)], check=True, capture_output=True)
        seconds = time.perf_counter() - begun
        spent = _cpu() - cpu
    return Timing(seconds, spent, memory.peak / 1e6)


def check_beginning(text: Path, folder: Path, prefix: Path) -> int:
    """Compare the first documents with `tokenizers`; returns how many."""
    tokenizer, eod, reader = Tokenizer.from_file(str(folder / "tokenizer.json")), load_tokenizer(folder).eos_id, None
    reader = ShardReader(prefix)
    with text.open(encoding="utf-8") as stream:
        texts = [json.loads(line)["text"] for line in stream.readlines(_CHECKED_BYTES)]
    for number, document in enumerate(texts):
        ids = [*tokenizer.encode(document, add_special_tokens=False).ids, eod]
        if reader[number].tolist() != ids:
            raise SystemExit(f"error: document {number} has other tokens than `tokenizers` gives")
    return len(texts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=float, default=60, help="text, millions of bytes (default 60)")
    parser.add_argument("--text", type=Path, help="jsonl or jsonl.zst to take instead (zst only with --no-peer)")
    parser.add_argument("--workers", type=int, default=2, help="processes of each side (default 2)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, all sides in turn (default 3)")
    parser.add_argument("--no-peer", action="store_true", help="ours alone, with one and with --workers workers")
    parser.add_argument(
        "--tokenizer", choices=["byte-level", "llama"], default="byte-level", help="kind (default byte-level)"
    )
    parser.add_argument("--tokenizer-folder", type=Path, help="tokenizer to take instead of training one")
    parser.add_argument("--vocab-size", type=int, default=32_000, help="entries (default 32000)")
    parser.add_argument("--rare-words", type=float, default=0.05, help="share of random words (default 0.05)")
    parser.add_argument("--seed", type=int, default=0, help="chooses the text (default 0)")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        text, folder = args.text or Path(name, "text.jsonl"), args.tokenizer_folder or Path(name, "tokenizer")
        if args.text is None:
            make_text(text, int(args.megabytes * 1e6), args.rare_words, args.seed)
        if args.tokenizer_folder is None:
            make_tokenizer(args.tokenizer, args.vocab_size, text, folder)
        times: dict[str, list[Timing]] = {}
        several = f"ours, {args.workers} workers"
        sides = [(several, run_ours, args.workers), ("ours, 1 worker", run_ours, 1)]
        sides += [] if args.no_peer else [(f"peer, {args.workers} workers", run_peer, args.workers)]
        for number in range(args.rounds):
            prefix = Path(name, f"round{number}")
            for side, call, workers in sides:
                times.setdefault(side, []).append(
                    call(text, folder, Path(f"{prefix}-{workers}-{call.__name__}"), workers)
                )
            shards = [ShardReader(f"{prefix}-{workers}-{call.__name__}") for _, call, workers in sides]
            for shard in shards[1:]:
                if not (
                    np.array_equal(shard.tokens, shards[0].tokens) and np.array_equal(shard.lengths, shards[0].lengths)
                ):
                    raise SystemExit("error: the sides give different tokens")
            tokens = shards[0].num_tokens / 1e6
            if args.no_peer and number == 0 and text.suffix == ".jsonl":
                print(
                    f"{check_beginning(text, folder, shards[0].prefix):,} documents are equal to those of `tokenizers`"
                )
            summary = json.loads(Path(f"{shards[0].prefix}.json").read_text(encoding="utf-8"))
            for shard in shards:
                Path(f"{shard.prefix}.bin").unlink()

    size = summary["text_bytes"] / 1e6
    table = Table(title=f"{size:.1f} MB of text, {tokens:.2f} Mtokens, {summary['vocab_size']:,} entries; medians")
    for column in ("", "seconds", "MB/s", "Mtokens/s", "CPU seconds", "MB per CPU second", "peak RSS, MB"):
        table.add_column(column, justify="right" if column else "left")
    for side, runs in times.items():
        seconds, cpu = (statistics.median(getattr(run, key) for run in runs) for key in ("seconds", "cpu"))
        rates = f"{size / seconds:.1f}", f"{tokens / seconds:.2f}", f"{cpu:.1f}", f"{size / cpu:.1f}"
        table.add_row(side, f"{seconds:.2f}", *rates, f"{max(run.rss for run in runs):.0f}")
    Console().print(table)
    ratios = {}
    for side, runs in list(times.items())[1:]:
        pairs = sorted(run.seconds / ours.seconds for run, ours in zip(runs, times[several], strict=True))
        ratios[side] = pairs
        print(f"seconds of `{side}` / `{several}`: {pairs[0]:.2f} / {statistics.median(pairs):.2f} / {pairs[-1]:.2f}")
    print("ratios are min / median / max; equal tokens in every round")
    if args.json:
        runs_by_side = {side: [asdict(run) for run in runs] for side, runs in times.items()}
        figures = {
            "text_bytes": summary["text_bytes"],
            "tokens": int(tokens * 1e6),
            "runs": runs_by_side,
            "ratios": ratios,
        }
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
