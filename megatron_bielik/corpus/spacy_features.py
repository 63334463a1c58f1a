"""Entity and dependency features from a spaCy pipeline, where one is installed: seven columns take its word for it.

The dictionary's view stays in all other columns. A model trained with a pipeline carries its name in the feature version
and refuses features made without it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_bielik.corpus.features import FEATURE_NAMES, FeatureExtractor

_KINDS = {
    "persName": "person", "PER": "person", "PERSON": "person", "placeName": "place", "geogName": "place", "GPE": "place",
    "LOC": "place", "orgName": "organisation", "ORG": "organisation",
}  # fmt: skip


class SpacyFeatureExtractor:
    """A FeatureExtractor whose name and clause columns come from a pipeline.

    name_ratio: tokens of entities / tokens; name_length: mean tokens of an entity; given_name_share and surname_share: share of
    persons of several and of one token among entities; place_name_share; name_kind_entropy: of the labels, bits;
    subordinate_clauses_per_sentence: mean depth of the dependency trees.

    Args:
        base: Computes the other columns.
        nlp: A loaded spaCy pipeline; columns of components that it lacks stay as they are.
    """

    def __init__(self, base: FeatureExtractor, nlp: Any) -> None:
        self._base, self._nlp = base, nlp
        self.language = base.language
        self.version = f"{base.version}+{nlp.meta['lang']}_{nlp.meta['name']}-{nlp.meta['version']}"

    def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """float32 [texts, 200], as FeatureExtractor gives them."""
        rows = self._base(texts)
        for row, doc in zip(rows, self._nlp.pipe(texts), strict=True):
            if self._nlp.has_pipe("ner") or self._nlp.has_pipe("entity_ruler"):
                _put(row, _entities(doc))
            if doc.has_annotation("DEP"):
                _put(row, {"subordinate_clauses_per_sentence": _depth(doc)})
        return rows

    def save(self) -> None:
        """See FeatureExtractor.save."""
        self._base.save()


def _put(row: npt.NDArray[np.float32], values: dict[str, float]) -> None:
    for name, value in values.items():
        row[FEATURE_NAMES.index(name)] = value


def _entities(doc: Any) -> dict[str, float]:
    kinds = Counter(_KINDS.get(entity.label_, "other") for entity in doc.ents)
    labels = Counter(entity.label_ for entity in doc.ents)
    count, tokens = len(doc.ents), sum(len(entity) for entity in doc.ents)
    single = sum(len(entity) == 1 and _KINDS.get(entity.label_) == "person" for entity in doc.ents)
    return {
        "name_ratio": tokens / max(len(doc), 1),
        "name_length": tokens / max(count, 1),
        "given_name_share": (kinds["person"] - single) / max(count, 1),
        "surname_share": single / max(count, 1),
        "place_name_share": kinds["place"] / max(count, 1),
        "name_kind_entropy": -sum(n / count * math.log2(n / count) for n in labels.values()),
    }


def _depth(doc: Any) -> float:
    """Mean over sentences of the longest path from a word to its root."""
    depths: list[int] = [0] * len(doc)
    for token in doc:
        head, steps = token, 0
        while head.head.i != head.i:
            head, steps = head.head, steps + 1
        depths[token.i] = steps
    sentences = [max(depths[sentence.start : sentence.end], default=0) for sentence in doc.sents]
    return sum(sentences) / max(len(sentences), 1)
