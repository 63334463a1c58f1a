"""The topic classifier: probabilities equal scikit-learn's, uncertain documents are "Other", files carry no code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from megatron_bielik.corpus.synthetic import generate_document
from megatron_bielik.corpus.topic_report import judge, split
from megatron_bielik.corpus.topics import OTHER, TopicError, TopicModel, load_topic_model, train_topic_model

ROOT = Path(__file__).parents[2]
DOCUMENTS = [generate_document(1, i) for i in range(500)]
TEXTS, TOPICS = [d["text"] for d in DOCUMENTS], [d["topic"] for d in DOCUMENTS]
STRANGE = ["", "xyz", "słowo " * 500, "a b c", "\ud800", TEXTS[0] + TEXTS[1]]


@pytest.fixture(scope="module")
def model() -> TopicModel:
    return train_topic_model(TEXTS[:400], TOPICS[:400])


def peer(texts: list[str], topics: list[str]) -> object:
    classifier = CalibratedClassifierCV(LinearSVC(random_state=42), method="isotonic", cv=3)
    return make_pipeline(CountVectorizer(max_features=15_000), TfidfTransformer(), classifier).fit(texts, topics)


def test_probabilities_are_scikit_learns(model: TopicModel) -> None:
    expected = peer(TEXTS[:400], TOPICS[:400]).predict_proba([*TEXTS[400:], *STRANGE])  # type: ignore[attr-defined]
    np.testing.assert_allclose(model.probabilities([*TEXTS[400:], *STRANGE]), expected, atol=1e-9)


def test_two_topics_are_scikit_learns() -> None:
    pairs = [(text, topic) for text, topic in zip(TEXTS, TOPICS, strict=True) if topic in sorted(set(TOPICS))[:2]]
    texts, topics = [text for text, _ in pairs], [topic for _, topic in pairs]
    expected = peer(texts[:80], topics[:80]).predict_proba(texts[80:])  # type: ignore[attr-defined]
    np.testing.assert_allclose(
        train_topic_model(texts[:80], topics[:80]).probabilities(texts[80:]), expected, atol=1e-9
    )


def test_120_topics() -> None:
    rng = Random(0)
    own = [[f"s{topic}w{i}" for i in range(8)] for topic in range(120)]
    common = [f"wspólne{i}" for i in range(50)]
    labelled = [
        (" ".join(rng.choices(own[t], k=6) + rng.choices(common, k=20)), f"temat {t:03d}")
        for t in range(120)
        for _ in range(12)
    ]
    train, held_out = split(labelled, 0.1, 0)
    model = train_topic_model([text for text, _ in train], [topic for _, topic in train])
    assert len(model.classes) == 120
    assert judge(model, held_out).accuracy > 0.95


def test_uncertain_documents_are_other(model: TopicModel) -> None:
    (topic, probability), (sure, _) = model.topics(["nic z tego", TEXTS[450]])
    assert probability < 0.5
    assert topic == (OTHER if probability < 0.2 else model.classes[int(model.probabilities(["nic z tego"]).argmax())])
    assert sure == TOPICS[450]
    assert model.topics([TEXTS[450]], least=1.0 + 1e-9)[0][0] == OTHER
    assert model.topics([]) == []


def test_saved_and_loaded(tmp_path: Path, model: TopicModel) -> None:
    path = tmp_path / "t.npz"
    model.save(path)
    np.testing.assert_array_equal(load_topic_model(path).probabilities(TEXTS[:20]), model.probabilities(TEXTS[:20]))
    assert [file.name for file in tmp_path.iterdir()] == ["t.npz"]
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"nothing"):
        path.write_bytes(damaged)
        with pytest.raises(TopicError, match="damaged"):
            load_topic_model(path)
    np.savez(path, about=np.array([{"a": 1}], dtype=object))
    with pytest.raises(TopicError, match="damaged"):
        load_topic_model(path)
    with pytest.raises(TopicError, match="does not exist"):
        load_topic_model(tmp_path / "none.npz")
    with pytest.raises(TopicError, match="ends in"):
        model.save(tmp_path / "t.pkl")


def test_data_that_cannot_be_used() -> None:
    with pytest.raises(TopicError, match="of 1 topic"):
        train_topic_model(["a b", "c d"], ["x", "x"])
    with pytest.raises(TopicError, match="'y' has 1 documents"):
        train_topic_model(["aa bb"] * 4, ["x", "x", "x", "y"])
    with pytest.raises(TopicError, match="another name"):
        train_topic_model(["aa bb"] * 6, ["x", "x", "x", OTHER, OTHER, OTHER])
    with pytest.raises(TopicError, match="needs 10 or more"):
        split([("a", "b")], 0.1, 0)


def test_from_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(d) + "\n" for d in DOCUMENTS[:200]), encoding="utf-8")

    def run(tool: str, *words: str) -> str:
        command = [sys.executable, str(ROOT / "tools" / tool), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "8 topics" in run("train_topic_classifier.py", "--train", "a.jsonl", "--output", "t.npz")
    assert json.loads((tmp_path / "t.report.json").read_text())["documents"] == 20
    run("score_topics.py", "--model", "t.npz", "--input", "a.jsonl", "--output", "b.jsonl")
    records = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().split("\n") if line]
    assert [record["id"] for record in records] == [d["id"] for d in DOCUMENTS[:200]]
    assert np.mean([record["predicted_topic"] == record["topic"] for record in records]) > 0.9
