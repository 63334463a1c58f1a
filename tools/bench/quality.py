"""Quality scoring end to end, jsonl to jsonl, against datatrove reading, filtering by Gopher's quality rules and writing.

CPU seconds of one thread, both in this process on the same lines. Ours reads, computes 200 features, predicts with a model of
the published size and writes each record with its probabilities; the peer keeps or drops by about ten rules. Dictionary
look-ups are cached before the timing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from megatron_bielik.corpus.features import FeatureExtractor
from megatron_bielik.corpus.labelled import labelled_document
from megatron_bielik.corpus.quality import QualityModel, label_numbers, train_quality_model
from megatron_bielik.corpus.records import dump
from megatron_bielik.corpus.scoring import Thresholds, score_files

EXAMPLES = """examples:
  python tools/bench/quality.py --megabytes 20 --rounds 3
  python tools/bench/quality.py --documents-per-text 1 --train 20000     (short texts, a model as the experiment's)
"""


def write_texts(path: Path, size: int, together: int) -> tuple[int, int]:
    """Labelled documents, `together` to a text, until `size` bytes of UTF-8; returns texts and bytes of text."""
    written, count, index = 0, 0, 0
    with path.open("wb") as stream:
        while written < size:
            parts = [labelled_document(21, index + i, 1 + (index + i) % 5).text for i in range(together)]
            text = "\n\n".join(parts)
            stream.write(dump({"id": str(count), "text": text, "url": f"https://example.com/{count}"}))
            written += len(text.encode("utf-8", "replace"))
            count, index = count + 1, index + together
    return count, written


def train(extractor: FeatureExtractor, count: int) -> QualityModel:
    """A model with the published settings."""
    documents = [labelled_document(1, i, 1 + i % 4, "seen") for i in range(count)]
    rows = extractor([document.text for document in documents])
    return train_quality_model(rows, label_numbers([document.label for document in documents]), extractor.version)


def time_peer(source: Path, folder: Path) -> float:
    """CPU seconds of datatrove's reader, quality filter and writer."""
    from datatrove.pipeline.filters import GopherQualityFilter
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter

    reader = JsonlReader(str(source.parent), glob_pattern=source.name)
    steps = [GopherQualityFilter(language="pl"), JsonlWriter(str(folder), compression=None)]
    begun = time.process_time()
    data = reader.run()
    for step in steps:
        data = step.run(data)
    for _ in data:
        pass
    return time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=float, default=20, help="text for our scoring (default 20)")
    parser.add_argument("--peer-megabytes", type=float, default=1, help="text for the peer (default 1)")
    parser.add_argument("--documents-per-text", type=int, default=2, help="generated documents in a text (default 2)")
    parser.add_argument("--train", type=int, default=4000, help="documents the model is trained on (default 4000)")
    parser.add_argument("--rounds", type=int, default=3, help="paired rounds (default 3)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()

    from loguru import logger

    logger.disable("datatrove")
    extractor = FeatureExtractor()
    model = train(extractor, args.train)
    ours, peers, parts = [], [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        count, size = write_texts(folder / "ours.jsonl", int(args.megabytes * 1e6), args.documents_per_text)
        _, peer_size = write_texts(folder / "peer.jsonl", int(args.peer_megabytes * 1e6), args.documents_per_text)
        texts = [json.loads(line)["text"] for line in (folder / "ours.jsonl").open(encoding="utf-8")]
        rows = extractor(texts)
        time_peer(folder / "peer.jsonl", folder / "warm")
        for _ in range(args.rounds):
            begun = time.process_time()
            done = score_files(
                [str(folder / "ours.jsonl")], folder / "out.jsonl", model, extractor, Thresholds(), keep_all=True
            )
            ours.append(size / 1e6 / (time.process_time() - begun))
            peers.append(peer_size / 1e6 / time_peer(folder / "peer.jsonl", folder / "peer"))
            begun = time.process_time()
            model.probabilities(rows)
            parts.append(count / (time.process_time() - begun))
        if done.read.records != count or sum(done.classes.values()) != count:
            raise SystemExit(f"{done.read.records} of {count} documents were scored")
    ratios = [a / b for a, b in zip(ours, peers, strict=True)]
    table = Table("", "MB per CPU second", "lowest", "highest")
    names = ("features, trees, jsonl in and out", "Gopher quality, jsonl in and out, datatrove", "ratio")
    for name, values in zip(names, (ours, peers, ratios), strict=True):
        table.add_row(name, f"{statistics.median(values):.2f}", f"{min(values):.2f}", f"{max(values):.2f}")
    Console().print(table)
    print(
        f"{count:,} texts of {size / count:,.0f} bytes; the trees alone: {statistics.median(parts):,.0f} documents per CPU second"
    )
    if args.json:
        figures = {"ours": ours, "peer": peers, "ratio": ratios, "trees": parts, "bytes_per_text": size / count}
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
