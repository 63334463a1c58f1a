"""200 stylometric features against datatrove's Gopher quality and repetition filters on the same text, CPU seconds of one thread.

The filters compute about twenty of these figures and keep or drop; their words come from datatrove's own tokenizer for
English rules (white space and punctuation), which is its fastest. Dictionary look-ups are cached before the timing, as they
are in a run after its first minutes; the first pass over the text, with all of them, is given as "cold".
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from megatron_bielik.corpus.features import FeatureExtractor
from megatron_bielik.corpus.synthetic import generate_document

EXAMPLES = """examples:
  python tools/bench/features.py --megabytes 30 --peer-megabytes 1 --rounds 5
  python tools/bench/features.py --documents-per-text 8      (longer texts)
"""


def make_texts(size: int, together: int) -> list[str]:
    """Generated documents, `together` of them to a text, until their UTF-8 size has reached `size` bytes."""
    texts, written, index = [], 0, 0
    while written < size:
        texts.append("\n\n".join(generate_document(11, index + i)["text"] for i in range(together)))
        written += len(texts[-1].encode())
        index += together
    return texts


def rate(texts: list[str], seconds: float) -> float:
    """Megabytes of UTF-8 per second."""
    return sum(len(text.encode()) for text in texts) / 1e6 / seconds


def time_peer(texts: list[str]) -> float:
    """MB per CPU second of both filters, one after the other on each document."""
    from datatrove.data import Document
    from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter

    filters = [GopherQualityFilter(language="pl"), GopherRepetitionFilter(language="pl")]
    documents = [Document(text=text, id=str(i)) for i, text in enumerate(texts)]
    for one in filters:
        one.filter(documents[0])  # loads the word tokenizer
    begun = time.process_time()
    for document in documents:
        for one in filters:
            one.filter(document)
    return rate(texts, time.process_time() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=float, default=20, help="text for our features (default 20)")
    parser.add_argument("--peer-megabytes", type=float, default=0.5, help="of it, text for the peer (default 0.5)")
    parser.add_argument(
        "--documents-per-text", type=int, default=3, help="generated documents of 1 kB in a text (default 3)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="paired rounds (default 5)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()

    texts = make_texts(int(args.megabytes * 1e6), args.documents_per_text)
    count = max(1, round(len(texts) * args.peer_megabytes / args.megabytes))
    extractor = FeatureExtractor()
    begun = time.process_time()
    extractor(texts)
    cold = rate(texts, time.process_time() - begun)
    ours, peers = [], []
    for _ in range(args.rounds):
        begun = time.process_time()
        extractor(texts)
        ours.append(rate(texts, time.process_time() - begun))
        peers.append(time_peer(texts[:count]))
    ratios = [a / b for a, b in zip(ours, peers, strict=True)]

    table = Table("", "MB per CPU second", "lowest", "highest")
    for name, values in (
        ("200 features, C++", ours),
        ("Gopher quality + repetition, datatrove", peers),
        ("ratio", ratios),
    ):
        table.add_row(name, f"{statistics.median(values):.2f}", f"{min(values):.2f}", f"{max(values):.2f}")
    Console().print(table)
    print(
        f"first pass, with the dictionary look-ups of {extractor._extractor.num_words():,} word forms: {cold:.1f} MB/s"
    )
    if args.json:
        figures = {
            "ours": ours,
            "peer": peers,
            "ratio": ratios,
            "cold": cold,
            "text_bytes": sum(len(t.encode()) for t in texts),
        }
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
