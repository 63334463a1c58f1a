"""Labelled documents to features and labels, for training and judging the quality classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from megatron_bielik.corpus.features import FeatureExtractor
from megatron_bielik.corpus.labelled import LABELS
from megatron_bielik.corpus.quality import QualityError, label_numbers
from megatron_bielik.corpus.records import ReadCount, read_records
from megatron_bielik.data.fields import field_getter

Labelled = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
_BATCH = 2000


def labelled_features(inputs: Sequence[str], extractor: FeatureExtractor, text_key: str, label_key: str) -> Labelled:
    """Features float32 [documents, 200] and labels int64 [documents] of files.

    Raises:
        DataError: An input that cannot be read or has no document.
        QualityError: A record without text, or another label.
    """
    count = ReadCount()
    rows, labels, texts, text_of = [], [], [], field_getter(text_key)
    for record in read_records(inputs, text_key, count):
        texts.append(text_of(record))
        labels.append(str(record.get(label_key)))
        if len(texts) == _BATCH:
            rows.append(extractor(texts))
            texts = []
    if count.bad:
        raise QualityError(f"{count.first_bad[0]}; clean the file first ({count.bad} such records)")
    return np.concatenate([*rows, extractor(texts)]), label_numbers(labels)


def split(
    rows: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], share: float, seed: int
) -> tuple[Labelled, Labelled]:
    """Training and held-out part, drawn class by class. At least one document of each class is held out."""
    order = np.random.default_rng(seed).permutation(len(labels))
    held = np.zeros(len(labels), bool)
    for i in range(len(LABELS)):
        members = order[labels[order] == i]
        held[members[: max(1, round(share * len(members)))]] = True
    return (rows[~held], labels[~held]), (rows[held], labels[held])


def parse_class_weights(words: Sequence[str]) -> Literal["none", "balanced"] | tuple[float, float, float]:
    """What --class-weights says. Raises QualityError."""
    if list(words) == ["none"]:
        return "none"
    if list(words) == ["balanced"]:
        return "balanced"
    try:
        low, medium, high = (float(word) for word in words)
    except ValueError as error:
        raise QualityError(f"--class-weights is {' '.join(words)}, needs none, balanced or three numbers") from error
    return low, medium, high
