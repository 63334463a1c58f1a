"""A spaCy pipeline takes over the columns of names and clause depth, and no others."""

from __future__ import annotations

import numpy as np
import pytest
import spacy
from spacy.language import Language
from spacy.tokens import Doc

from megatron_bielik.corpus.features import FEATURE_NAMES, FeatureExtractor
from megatron_bielik.corpus.spacy_features import SpacyFeatureExtractor

TEXT = "Jan Kowalski jedzie do Gdyni . Kot , który śpi , mruczy ."


@Language.component("heads_by_hand")
def heads_by_hand(doc: Doc) -> Doc:
    if len(doc):
        heads = [2, 0, 2, 2, 3, 2, 11, 9, 9, 6, 9, 11, 11]  # depths 2 (Gdyni, Kowalski) and 3 (który)
        return Doc(doc.vocab, [token.text for token in doc], heads=heads, deps=["dep"] * len(doc))
    return doc


def test_entities_replace_the_name_columns() -> None:
    nlp = spacy.blank("pl")
    ruler = nlp.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "persName", "pattern": "Jan Kowalski"}, {"label": "placeName", "pattern": "Gdyni"}])  # type: ignore[attr-defined]
    base = FeatureExtractor()
    extractor = SpacyFeatureExtractor(base, nlp)
    with_spacy, without = extractor([TEXT, ""]), base([TEXT, ""])
    row = dict(zip(FEATURE_NAMES, with_spacy[0].tolist(), strict=True))
    assert row["name_ratio"] == pytest.approx(3 / 13)
    assert row["name_length"] == pytest.approx(1.5)
    assert row["given_name_share"] == row["place_name_share"] == 0.5
    assert row["surname_share"] == 0
    assert row["name_kind_entropy"] == 1
    changed = {FEATURE_NAMES[i] for i in np.flatnonzero(with_spacy[0] != without[0])}
    assert changed <= {
        "name_ratio",
        "name_length",
        "given_name_share",
        "surname_share",
        "place_name_share",
        "name_kind_entropy",
    }
    assert extractor.version.startswith(base.version + "+pl_")


def test_dependency_depth_replaces_the_clause_column() -> None:
    nlp = spacy.blank("pl")
    nlp.add_pipe("heads_by_hand")
    row = SpacyFeatureExtractor(FeatureExtractor(), nlp)([TEXT])[0]
    assert row[FEATURE_NAMES.index("subordinate_clauses_per_sentence")] == 2.5
