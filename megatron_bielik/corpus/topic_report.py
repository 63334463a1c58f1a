"""What a topic classifier is worth on documents it was not trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from megatron_bielik.corpus.records import write_whole
from megatron_bielik.corpus.topics import OTHER, TopicError, TopicModel

Labelled = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class TopicScores:
    """Scores of the likeliest topic. other: share of documents below the least probability, which get "Other"."""

    documents: int
    accuracy: float
    macro_f1: float
    other: float
    topics: dict[str, dict[str, float]]


def split(labelled: Labelled, share: float, seed: int) -> tuple[Labelled, Labelled]:
    """Training and held-out part.

    Raises:
        TopicError: Too few documents to hold any out.
    """
    if len(labelled) < 10:
        raise TopicError(f"there are {len(labelled)} documents, needs 10 or more")
    order = Random(seed).sample(range(len(labelled)), len(labelled))
    count = max(1, round(share * len(labelled)))
    return [labelled[i] for i in sorted(order[count:])], [labelled[i] for i in sorted(order[:count])]


def judge(model: TopicModel, held_out: Labelled, path: Path | None = None) -> TopicScores:
    """Scores, also written as JSON where a path is given."""
    texts, truth = [text for text, _ in held_out], [topic for _, topic in held_out]
    guesses = [model.classes[i] for i in model.probabilities(texts).argmax(axis=1)]
    names = sorted(set(truth) | set(guesses))
    precision, recall, f1, count = precision_recall_fscore_support(truth, guesses, labels=names, zero_division=0)
    topics = {
        name: {"precision": float(p), "recall": float(r), "f1": float(f), "documents": int(n)}
        for name, p, r, f, n in zip(names, precision, recall, f1, count, strict=True)
    }
    other = sum(topic == OTHER for topic, _ in model.topics(texts)) / len(texts)
    macro = float(f1_score(truth, guesses, average="macro", labels=names, zero_division=0))
    scores = TopicScores(len(texts), float(accuracy_score(truth, guesses)), macro, other, topics)
    if path is not None:
        write_whole(path, json.dumps(asdict(scores), indent=1, ensure_ascii=False) + "\n")
    return scores
