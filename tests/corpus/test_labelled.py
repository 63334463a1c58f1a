"""Labelled documents: the same for the same numbers, every corruption at work, levels and unseen corruptions kept apart."""

from __future__ import annotations

from collections import Counter
from random import Random

import numpy as np
import pytest

from megatron_bielik.corpus import corruptions
from megatron_bielik.corpus.features import FEATURE_NAMES, FeatureExtractor
from megatron_bielik.corpus.labelled import LEVELS, labelled_document


def test_a_document_depends_on_its_numbers_only() -> None:
    assert labelled_document(1, 2, 3) == labelled_document(1, 2, 3)
    assert labelled_document(1, 2, 3).text != labelled_document(2, 2, 3).text
    assert labelled_document(1, 2, 3).text != labelled_document(1, 2, 4).text


def test_shares_and_kinds() -> None:
    documents = [labelled_document(0, i, 1) for i in range(1500)]
    shares = Counter(document.label for document in documents)
    assert 0.38 < shares["HIGH"] / 1500 < 0.52
    assert 0.06 < shares["MEDIUM"] / 1500 < 0.14
    kinds = {document.kind for document in documents if document.label != "HIGH"}
    assert kinds == set(corruptions.MEDIUM) | set(corruptions.LOW)
    assert all(document.text.strip() for document in documents)


def test_unseen_corruptions_are_never_among_the_seen() -> None:
    seen = {d.kind for i in range(400) if (d := labelled_document(0, i, 2, "seen")).label != "HIGH"}
    unseen = {d.kind for i in range(400) if (d := labelled_document(0, i, 2, "unseen")).label != "HIGH"}
    assert unseen == corruptions.UNSEEN
    assert not seen & unseen


@pytest.mark.parametrize("name", [*corruptions.MEDIUM, *corruptions.LOW])
@pytest.mark.parametrize("severity", [0.05, 1.0])
def test_every_corruption_changes_a_text_and_survives_short_ones(name: str, severity: float) -> None:
    corrupt = (corruptions.MEDIUM | corruptions.LOW)[name]
    text = next(d.text for i in range(50) if (d := labelled_document(3, i, 1)).label == "HIGH" and len(d.text) > 1500)
    assert corrupt(text, Random(0), severity) != text
    for short in ("Kot.", "a", "Kot śpi.\n\nPies też."):
        corrupt(short, Random(0), severity)


def test_milder_at_higher_levels() -> None:
    """The words that a missing_diacritics document keeps whole: more of them at level 5."""
    extractor = FeatureExtractor()
    column = FEATURE_NAMES.index("words_with_diacritics_ratio")
    means = []
    for level in (1, 5):
        texts = [d.text for i in range(1500) if (d := labelled_document(0, i, level)).kind == "missing_diacritics"]
        means.append(extractor(texts)[:, column].mean())
    assert means[1] > 2 * means[0]


def test_no_feature_is_constant_on_generated_documents() -> None:
    texts = [labelled_document(7, i, 1 + i % 5).text for i in range(4000)]
    rows = FeatureExtractor()(texts)
    assert np.isfinite(rows).all()
    assert [name for name, values in zip(FEATURE_NAMES, rows.T, strict=True) if values.min() == values.max()] == []


def test_levels_are_checked() -> None:
    assert LEVELS == (1, 2, 3, 4, 5)
    with pytest.raises(ValueError, match="level is 6, needs 1 to 5"):
        labelled_document(0, 0, 6)
