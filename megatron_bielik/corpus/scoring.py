"""Documents through the quality classifier: probabilities are added to each record, and thresholds decide what stays."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megatron_bielik.corpus.features import FeatureExtractor
from megatron_bielik.corpus.labelled import LABELS
from megatron_bielik.corpus.quality import HIGH, MEDIUM, QualityError, QualityModel
from megatron_bielik.corpus.records import (
    ReadCount,
    Record,
    batches,
    dump,
    read_records,
    record_writer,
    utf8_size,
    with_results,
)
from megatron_bielik.data.fields import field_getter

_BATCH = 512


@dataclass(frozen=True)
class Thresholds:
    """A document is kept when P(HIGH) > high, or P(MEDIUM) > medium. The defaults are those of the Bielik v3 Small report,
    whose wording about MEDIUM is open to other readings; for synthetic data it asks for P(HIGH) > 0.9 alone.

    Raises:
        QualityError: A threshold outside 0 to 1.
    """

    high: float = 0.5
    medium: float = 0.8

    def __post_init__(self) -> None:
        for name in ("high", "medium"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise QualityError(f"--min-{name} is {value}, needs 0 to 1 (1 keeps none on account of this class)")

    def keep(self, probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """bool [documents] of float32 [documents, 3]."""
        return (probabilities[:, HIGH] > self.high) | (probabilities[:, MEDIUM] > self.medium)


@dataclass
class ScoreCount:
    """What was scored. classes: documents by likeliest class; histogram: int64 [20], documents by P(HIGH) in steps of 0.05."""

    read: ReadCount = field(default_factory=ReadCount)
    kept: int = 0
    kept_bytes: int = 0
    text_bytes: int = 0
    classes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LABELS, 0))
    histogram: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(20, np.int64))
    seconds: float = 0.0


def quality_entries(probabilities: npt.NDArray[np.float32]) -> list[dict[str, str | float]]:
    """What records say of their quality, likeliest label and three probabilities: of float32 [documents, 3]."""
    rounded = np.round(probabilities.astype(np.float64), 4).tolist()
    labels = probabilities.argmax(axis=1).tolist()
    return [
        {"label": LABELS[label], "low": low, "medium": medium, "high": high}
        for label, (low, medium, high) in zip(labels, rounded, strict=True)
    ]


def score_records(
    records: Iterator[Record],
    model: QualityModel,
    extractor: FeatureExtractor,
    thresholds: Thresholds,
    text_key: str,
    count: ScoreCount,
) -> Iterator[tuple[Record, bool]]:
    """Each record with "quality": {"label", "low", "medium", "high"} put in, and whether the thresholds keep it."""
    text_of = field_getter(text_key)
    for batch in batches(records, _BATCH):
        texts = [text_of(record) for record in batch]
        probabilities = model.probabilities(extractor(texts))
        count.histogram += np.histogram(probabilities[:, HIGH], bins=20, range=(0, 1))[0]
        kept = thresholds.keep(probabilities).tolist()
        for record, text, entry, keep in zip(batch, texts, quality_entries(probabilities), kept, strict=True):
            scored = with_results(record, {"quality": entry})
            count.classes[str(entry["label"])] += 1
            size = utf8_size(text)
            count.text_bytes += size
            if keep:
                count.kept += 1
                count.kept_bytes += size
            yield scored, keep


def score_files(
    inputs: list[str],
    output: Path,
    model: QualityModel,
    extractor: FeatureExtractor,
    thresholds: Thresholds,
    text_key: str = "text",
    keep_all: bool = False,
    progress: Callable[[ScoreCount], None] = lambda _: None,
) -> ScoreCount:
    """Score files into one; it appears when complete.

    Args:
        inputs: Files and patterns, see records.read_records.
        output: .jsonl, .jsonl.gz or .jsonl.zst.
        model: Classifier.
        extractor: Features of the model's version.
        thresholds: What stays.
        text_key: Key of the text.
        keep_all: Write every record, with its probabilities.
        progress: Called now and then.

    Raises:
        DataError: An input that cannot be read, or a disk that refuses.
    """
    count, begun, told = ScoreCount(), time.monotonic(), time.monotonic()
    with record_writer(output) as stream:
        for record, keep in score_records(
            read_records(inputs, text_key, count.read), model, extractor, thresholds, text_key, count
        ):
            if keep or keep_all:
                stream.write(dump(record))
            if time.monotonic() - told > 0.5:
                told = time.monotonic()
                progress(count)
    extractor.save()
    count.seconds = time.monotonic() - begun
    return count
