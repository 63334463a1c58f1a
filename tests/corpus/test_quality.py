"""The quality classifier: learns, is saved with what it needs, refuses what does not fit, and scores files as it scores rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xgboost
from sklearn.metrics import f1_score

from megatron_bielik.corpus.features import FEATURE_NAMES, FeatureExtractor
from megatron_bielik.corpus.labelled import labelled_document
from megatron_bielik.corpus.quality import (
    HIGH,
    QualityError,
    QualityModel,
    QualityOptions,
    label_numbers,
    load_quality_model,
    train_quality_model,
)
from megatron_bielik.corpus.quality_data import Labelled, parse_class_weights, split
from megatron_bielik.corpus.quality_report import evaluate, importance, write_report
from megatron_bielik.corpus.records import dump
from megatron_bielik.corpus.scoring import Thresholds, score_files

ROOT = Path(__file__).parents[2]
QUICK = QualityOptions(n_estimators=40)


@pytest.fixture(scope="module")
def extractor() -> FeatureExtractor:
    return FeatureExtractor()


def labelled(extractor: FeatureExtractor, seed: int, count: int) -> Labelled:
    documents = [labelled_document(seed, i, 1 + i % 4, "seen") for i in range(count)]
    return extractor([document.text for document in documents]), label_numbers(
        [document.label for document in documents]
    )


@pytest.fixture(scope="module")
def train(extractor: FeatureExtractor) -> Labelled:
    return labelled(extractor, 1, 1200)


@pytest.fixture(scope="module")
def test_set(extractor: FeatureExtractor) -> Labelled:
    return labelled(extractor, 2, 400)


@pytest.fixture(scope="module")
def model(train: Labelled, extractor: FeatureExtractor) -> QualityModel:
    return train_quality_model(*train, extractor.version, QUICK)


def test_defaults_are_the_published_settings() -> None:
    options = QualityOptions()
    assert (options.n_estimators, options.max_depth, options.learning_rate, options.seed) == (250, 8, 0.08, 42)
    assert (options.subsample, options.colsample_bytree, options.reg_alpha, options.reg_lambda) == (0.75, 0.8, 0.2, 0.5)


@pytest.mark.parametrize("objective", ["softprob", "ordinal"])
def test_learns(objective: str, train: Labelled, test_set: Labelled, extractor: FeatureExtractor) -> None:
    options = QualityOptions(objective=objective, n_estimators=40)  # type: ignore[arg-type]
    probabilities = train_quality_model(*train, extractor.version, options).probabilities(test_set[0])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    assert probabilities.min() >= 0
    assert (probabilities.argmax(axis=1) == test_set[1]).mean() > 0.93


def test_softprob_is_xgboosts_own_classifier(train: Labelled, test_set: Labelled, model: QualityModel) -> None:
    peer = xgboost.XGBClassifier(
        n_estimators=40, max_depth=8, learning_rate=0.08, subsample=0.75, colsample_bytree=0.8, reg_alpha=0.2, reg_lambda=0.5,
        objective="multi:softprob", random_state=42, n_jobs=1,
    ).fit(*train)  # fmt: skip
    np.testing.assert_allclose(model.probabilities(test_set[0]), peer.predict_proba(test_set[0]), atol=1e-6)


def test_threads_change_nothing(train: Labelled, extractor: FeatureExtractor) -> None:
    one, two = (
        train_quality_model(*train, extractor.version, QualityOptions(n_estimators=3, threads=threads))
        for threads in (1, 2)
    )
    np.testing.assert_array_equal(one.probabilities(train[0]), two.probabilities(train[0]))


def test_class_weights_raise_the_recall_of_the_weighted(
    train: Labelled, test_set: Labelled, model: QualityModel, extractor: FeatureExtractor
) -> None:
    def recall(one: QualityModel) -> float:
        return evaluate(one.probabilities(test_set[0]), test_set[1]).classes["MEDIUM"].recall

    weighted = train_quality_model(
        *train, extractor.version, QualityOptions(class_weights=(1.0, 20.0, 1.0), n_estimators=40)
    )
    assert recall(weighted) > recall(model)


def test_saved_and_loaded(tmp_path: Path, model: QualityModel, test_set: Labelled, extractor: FeatureExtractor) -> None:
    path = tmp_path / "q.json"
    model.save(path)
    loaded = load_quality_model(path, extractor.version)
    np.testing.assert_array_equal(loaded.probabilities(test_set[0]), model.probabilities(test_set[0]))
    assert loaded.probabilities(test_set[0][:0]).shape == (0, 3)
    assert [file.name for file in tmp_path.iterdir()] == ["q.json"]


def test_models_that_do_not_fit_are_refused(tmp_path: Path, model: QualityModel, train: Labelled) -> None:
    path = tmp_path / "q.json"
    model.save(path)
    with pytest.raises(QualityError, match="was trained on features 1-pl, these are 1-cs"):
        load_quality_model(path, "1-cs")
    with pytest.raises(QualityError, match="does not exist; train a model"):
        load_quality_model(tmp_path / "none.json", "1-pl")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(QualityError, match="damaged"):
        load_quality_model(path, "1-pl")
    path.write_text('{"a": 1}')
    with pytest.raises(QualityError, match=r"damaged|not written by"):
        load_quality_model(path, "1-pl")
    xgboost.train({}, xgboost.DMatrix(train[0], train[1]), 1).save_model(path)
    with pytest.raises(QualityError, match="not written by tools/train_quality_classifier"):
        load_quality_model(path, "1-pl")
    with pytest.raises(QualityError, match=r"needs a name that ends in \.json"):
        model.save(tmp_path / "q.bin")


def test_labels_that_cannot_be_used(extractor: FeatureExtractor) -> None:
    with pytest.raises(QualityError, match="document 2 is labelled 'GOOD'"):
        label_numbers(["HIGH", "GOOD"])
    with pytest.raises(QualityError, match="no document is labelled MEDIUM"):
        train_quality_model(np.zeros((2, 200), np.float32), label_numbers(["HIGH", "LOW"]), "1-pl")
    for words in (["1", "2"], ["a", "b", "c"], ["often"]):
        with pytest.raises(QualityError, match="needs none, balanced or three numbers"):
            parse_class_weights(words)
    with pytest.raises(QualityError, match="three positive numbers"):
        train_quality_model(
            np.zeros((3, 200), np.float32), np.arange(3), "1-pl", QualityOptions(class_weights=(1, 0, 1))
        )


def test_split_holds_out_a_share_of_each_class() -> None:
    labels = np.array([0] * 50 + [1] * 3 + [2] * 47)
    (rest, rest_labels), (held, held_labels) = split(np.arange(100, dtype=np.float32)[:, None], labels, 0.1, 0)
    assert np.bincount(held_labels).tolist() == [5, 1, 5]
    assert sorted([*rest[:, 0], *held[:, 0]]) == list(range(100))
    assert len(rest_labels) == 89


def test_scores_by_hand() -> None:
    probabilities = np.array([[0.9, 0.05, 0.05], [0.2, 0.5, 0.3], [0.1, 0.2, 0.7], [0.6, 0.3, 0.1]], np.float32)
    scores = evaluate(probabilities, np.array([0, 1, 2, 1]))
    assert scores.accuracy == 0.75
    assert scores.confusion == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert scores.macro_f1 == pytest.approx(f1_score([0, 1, 2, 1], [0, 1, 2, 0], average="macro"))
    assert scores.classes["LOW"].calibration_error == pytest.approx((0.1 + 0.2 + 0.1 + 0.6) / 4, abs=1e-6)


def test_shap_values_add_up_to_the_log_odds(model: QualityModel, test_set: Labelled) -> None:
    margin = model.booster.predict(xgboost.DMatrix(test_set[0][:20]), output_margin=True)
    values = model.shap(test_set[0][:20])
    assert values.shape == (3, 20, 200)
    bias = margin - values.sum(axis=2).T
    np.testing.assert_allclose(bias, np.broadcast_to(bias[0], bias.shape), atol=1e-4)


def test_report(tmp_path: Path, model: QualityModel, test_set: Labelled) -> None:
    scores = write_report(tmp_path / "r", model, {"held out": test_set}, {"trained on": "1,200 documents"})
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert report["scores"]["held out"]["accuracy"] == scores["held out"].accuracy
    assert list(report["importance"]) == list(importance(model, test_set[0]))
    assert set(report["importance"]) == set(FEATURE_NAMES)
    for picture in ("confusion", "calibration", "importance"):
        assert (tmp_path / "r" / f"{picture}.png").read_bytes().startswith(b"\x89PNG")
        assert f"{picture}.png" in (tmp_path / "r" / "report.md").read_text()


def test_thresholds() -> None:
    rows = np.array([[0.4, 0.09, 0.51], [0.4, 0.1, 0.5], [0.1, 0.81, 0.09], [0.1, 0.8, 0.1]], np.float32)
    assert Thresholds().keep(rows).tolist() == [True, False, True, False]
    assert Thresholds(0.9, 1.0).keep(rows).tolist() == [False] * 4
    with pytest.raises(QualityError, match=r"--min-high is 1\.5, needs 0 to 1"):
        Thresholds(high=1.5)


def test_files_are_scored_as_rows_are(tmp_path: Path, model: QualityModel, extractor: FeatureExtractor) -> None:
    documents = [labelled_document(9, i, 3) for i in range(600)]
    source = tmp_path / "in.jsonl"
    source.write_bytes(b"".join(dump({"text": d.text, "n": i}) for i, d in enumerate(documents)) + b"{broken\n")
    expected = model.probabilities(extractor([d.text for d in documents]))
    for keep_all in (True, False):
        count = score_files([str(source)], tmp_path / "out.jsonl", model, extractor, Thresholds(), keep_all=keep_all)
        written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().split(b"\n") if line]
        kept = np.flatnonzero(Thresholds().keep(expected))
        numbers = list(range(600)) if keep_all else kept.tolist()
        assert [record["n"] for record in written] == numbers
        got = np.array([[record["quality"][name] for name in ("low", "medium", "high")] for record in written])
        np.testing.assert_allclose(got, expected[numbers], atol=6e-5)
        assert (count.kept, count.read.records, count.read.bad) == (len(kept), 600, 1)
        assert count.histogram.sum() == sum(count.classes.values()) == 600
        assert count.histogram[10:].sum() == (expected[:, HIGH] >= 0.5).sum()


def test_from_the_command_line(tmp_path: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
        command = [sys.executable, *words]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=120, cwd=tmp_path, env=environment, check=False
        )

    tools = ROOT / "tools"
    assert (
        run(
            str(tools / "generate_labelled.py"), "--output", "a.jsonl", "--documents", "300", "--levels", "1"
        ).returncode
        == 0
    )
    done = run(str(tools / "train_quality_classifier.py"), "--train", "a.jsonl", "--output", "q.json", "--rounds", "20")
    assert done.returncode == 0, done.stderr
    assert "held out: accuracy" in done.stdout
    done = run(str(tools / "score_quality.py"), "--model", "q.json", "--input", "a.jsonl", "--output", "k.jsonl.zst")
    assert done.returncode == 0, done.stderr
    assert "of 300 documents" in done.stdout
    assert (tmp_path / "k.jsonl.zst").exists()
    done = run(str(tools / "score_quality.py"), "--model", "none.json", "--input", "a.jsonl", "--output", "k2.jsonl")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: none.json does not exist; train a model with tools/train_quality_classifier.py"
    ]
    assert not (tmp_path / "k2.jsonl").exists()
