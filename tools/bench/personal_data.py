"""How well and how fast personal data is found: precision and recall on the test set, MB/s of one core beside datatrove.

A span counts only if its kind and both its ends are right. Speed is CPU time of one process over two texts: generated
documents, which have years and counts but no personal data, and the sentences of the test set, which are full of it. The
peer is datatrove's PIIFormatter, which looks for e-mail and IP addresses; ours is timed with all kinds and with these.
Repair of the generated documents is timed beside them. Where both look for e-mail addresses, they must agree on the
addresses that faker wrote.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from megatron_bielik.corpus.anonymise import Anonymiser
from megatron_bielik.corpus.personal_data_test_set import examples, look_alikes, score
from megatron_bielik.corpus.repair import repair
from megatron_bielik.corpus.synthetic import generate_document

EXAMPLES = """examples:
  python tools/bench/personal_data.py
  python tools/bench/personal_data.py --per-kind 1000 --megabytes 20 --rounds 5 --json personal_data.json"""


def seconds(function: Callable[[str], object], texts: list[str]) -> float:
    """CPU seconds of a function over texts."""
    begun = time.process_time()
    for text in texts:
        function(text)
    return time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--per-kind", type=int, default=400, help="sentences of each kind (default 400)")
    parser.add_argument("--megabytes", type=float, default=5, help="generated text, millions of bytes (default 5)")
    parser.add_argument("--rounds", type=int, default=3, help="timings of each, in turn (default 3)")
    parser.add_argument("--seed", type=int, default=0, help="chooses sentences and text (default 0)")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    try:
        from datatrove.pipeline.formatters.pii import PIIFormatter

        test_set = examples(args.seed, args.per_kind)
    except ImportError as error:
        sys.exit(f"error: {error.name} is not installed: pip install datatrove faker")
    anonymiser, console = Anonymiser(), Console()
    quality = score(anonymiser, test_set)
    table = Table(title="spans equal to the character")
    for column in ("kind", "n", "precision", "recall"):
        table.add_column(column, justify="left" if column == "kind" else "right")
    for kind, figures in quality.items():
        table.add_row(kind, f"{figures.expected:,}", f"{figures.precision:.4f}", f"{figures.recall:.4f}")
    console.print(table)

    plain, size, index = list[str](), 0, 0
    while size < args.megabytes * 1e6:
        plain.append(generate_document(args.seed, index)["text"])
        size, index = size + len(plain[-1].encode()), index + 1
    others = look_alikes(args.seed, 2000)
    wrong = sum(bool(anonymiser.find(text)) for text in others), sum(bool(anonymiser.find(text)) for text in plain)
    print(f"changed: {wrong[0]} of {len(others):,} look-alikes, {wrong[1]} of {len(plain):,} generated documents")

    dense = [example.text for example in test_set]
    ours, peer = Anonymiser(types=("email", "ipv4")), PIIFormatter(email_replacement="<EMAIL>", ip_replacement="<IPV4>")
    by_faker = [text for text in dense if "@" in text and not any(sign in text for sign in ("(at)", "[", "mailto"))]
    agree = sum(ours.anonymise(text).text.count("<EMAIL>") == peer.format(text).count("<EMAIL>") for text in by_faker)
    assert agree >= 0.99 * len(by_faker), f"{agree} of {len(by_faker)} agree"
    sides: dict[str, Callable[[str], object]] = {
        "ours, all kinds": anonymiser.anonymise,
        "ours, all, substitutes": Anonymiser("substitute").anonymise,
        "ours, e-mail and IPv4": ours.anonymise,
        "datatrove, e-mail and IPv4": peer.format,
        "ours, repair": repair,
    }
    times: dict[tuple[str, str], list[float]] = {}
    for number in range(args.rounds):
        for side in sorted(sides, reverse=bool(number % 2)):
            for name, texts in (("generated", plain), ("test set", dense)):
                times.setdefault((side, name), []).append(seconds(sides[side], texts))
    sizes = {"generated": size / 1e6, "test set": sum(len(text.encode()) for text in dense) / 1e6}
    speeds = {(side, name): sizes[name] / statistics.median(runs) for (side, name), runs in times.items()}
    table = Table(title=f"MB/s of one core: {sizes['generated']:.1f} MB generated, {sizes['test set']:.2f} MB test set")
    for column in ("", "generated", "to datatrove", "test set", "to datatrove"):
        table.add_column(column, justify="right" if column else "left")
    base = "datatrove, e-mail and IPv4"
    for side in sides:
        row = [side]
        for name in sizes:
            row += [f"{speeds[side, name]:.1f}", f"{speeds[side, name] / speeds[base, name]:.2f}"]
        table.add_row(*row)
    console.print(table)
    if args.json:
        written = {
            "quality": {k: {"n": s.expected, "precision": s.precision, "recall": s.recall} for k, s in quality.items()},
            "changed": {"look_alikes": wrong[0], "generated": wrong[1]},
            "mb_per_s": {f"{side} / {name}": speed for (side, name), speed in speeds.items()},
        }
        args.json.write_text(json.dumps(written, indent=2) + "\n")


if __name__ == "__main__":
    main()
