"""What a document is about: word counts, tf-idf, linear SVC, calibrated, after the Bielik v3 Small report (120 classes there).

scikit-learn trains; what is kept is arrays (.npz, no pickle), from which the probabilities are computed again with NumPy as
scikit-learn's CalibratedClassifierCV does: isotonic calibration per class in each of three folds, their mean.
"""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megatron_bielik.corpus.records import write_whole

OTHER = "Other"
_FORMAT = "megatron_bielik topics 1"


class TopicError(ValueError):
    """A topic model or labels that cannot be used."""


@dataclass(frozen=True)
class TopicModel:
    """A trained classifier.

    Args:
        classes: Names, sorted.
        words: Vocabulary in the order of columns.
        idf: float64 [words].
        coefficients: float64 [folds, classes, words].
        intercepts: float64 [folds, classes].
        knots: Of the isotonic curves, [fold][class]: x and y, float64 [2, points].
    """

    classes: tuple[str, ...]
    words: tuple[str, ...]
    idf: npt.NDArray[np.float64]
    coefficients: npt.NDArray[np.float64]
    intercepts: npt.NDArray[np.float64]
    knots: tuple[tuple[npt.NDArray[np.float64], ...], ...]

    def probabilities(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """float64 [texts, classes]; rows sum to one."""
        import scipy.sparse
        from sklearn.feature_extraction.text import CountVectorizer

        if not texts:
            return np.zeros((0, len(self.classes)))
        counts = CountVectorizer(vocabulary={word: i for i, word in enumerate(self.words)}).transform(texts)
        weighted = scipy.sparse.csr_matrix(counts, dtype=np.float64) @ scipy.sparse.diags(self.idf)
        norms = np.sqrt(weighted.multiply(weighted).sum(axis=1)).A1
        weighted = scipy.sparse.diags(1 / np.where(norms > 0, norms, 1)) @ weighted
        folds = zip(self.coefficients, self.intercepts, self.knots, strict=True)
        return np.mean([_calibrated(weighted @ w.T + b, knots) for w, b, knots in folds], axis=0)

    def topics(self, texts: Sequence[str], least: float = 0.2) -> list[tuple[str, float]]:
        """Likeliest topic of each text and its probability; "Other" where that is below `least`."""
        rows = self.probabilities(texts)
        best = rows.argmax(axis=1) if len(rows) else []
        return [
            (self.classes[i] if row[i] >= least else OTHER, float(row[i])) for i, row in zip(best, rows, strict=True)
        ]

    def save(self, path: Path) -> None:
        """Write the model; it appears under its name when it is complete.

        Raises:
            TopicError: A name that does not end in .npz.
            DataError: The disk refuses.
        """
        if path.suffix != ".npz":
            raise TopicError(f"--output is {path}, needs a name that ends in .npz")
        about = json.dumps({"format": _FORMAT, "classes": self.classes, "words": self.words}).encode()
        curves = [curve for fold in self.knots for curve in fold]
        lengths = np.array([curve.shape[1] for curve in curves])
        content = io.BytesIO()
        np.savez_compressed(
            content, about=np.frombuffer(about, np.uint8), idf=self.idf, coefficients=self.coefficients,
            intercepts=self.intercepts, lengths=lengths, knots=np.concatenate(curves, axis=1),
        )  # fmt: skip
        write_whole(path, content.getvalue())


def _calibrated(scores: npt.NDArray[np.float64], knots: Sequence[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    """Scores [texts, classes] through each class's isotonic curve, normalised; all equal where every curve says 0."""
    out = np.stack([np.interp(scores[:, i], x, y) for i, (x, y) in enumerate(knots)], axis=1)
    total = out.sum(axis=1, keepdims=True)
    return np.where(total > 0, out / np.where(total > 0, total, 1), 1 / out.shape[1])


def load_topic_model(path: Path) -> TopicModel:
    """Read a model.

    Raises:
        TopicError: No such file, or no model.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            about = json.loads(content["about"].tobytes())
            if about["format"] != _FORMAT:
                raise TopicError(f"{path} was written by another version; train it anew")
            ends = np.cumsum(content["lengths"])
            curves = np.split(content["knots"], ends[:-1], axis=1)
            count = len(about["classes"])
            folds = tuple(tuple(curves[i : i + count]) for i in range(0, len(curves), count))
            arrays = (content["idf"], content["coefficients"], content["intercepts"])
            return TopicModel(tuple(about["classes"]), tuple(about["words"]), *arrays, folds)
    except FileNotFoundError as error:
        raise TopicError(f"{path} does not exist; train a model with tools/train_topic_classifier.py") from error
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, TopicError):
            raise
        raise TopicError(f"{path} is no topic model, or is damaged: {str(error)[:100]}") from error


def train_topic_model(texts: Sequence[str], topics: Sequence[str], words: int = 15_000, seed: int = 42) -> TopicModel:
    """Fit the classifier.

    Args:
        texts: Documents.
        topics: Class of each.
        words: The most frequent words are the features.
        seed: Of the SVC.

    Raises:
        TopicError: Fewer than two classes, a class with fewer than three documents, or one called "Other".
    """
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    names, counts = np.unique(np.array(topics, dtype=str), return_counts=True)
    if len(names) < 2:
        raise TopicError(f"there are documents of {len(names)} topic, a classifier needs two or more")
    if counts.min() < 3:
        raise TopicError(
            f"topic {str(names[counts.argmin()])!r} has {counts.min()} documents, calibration over 3 folds needs 3"
        )
    if OTHER in names:
        raise TopicError(f"{OTHER!r} is what uncertain documents get; give that topic another name")
    classifier = CalibratedClassifierCV(LinearSVC(random_state=seed), method="isotonic", cv=3)
    pipeline = make_pipeline(CountVectorizer(max_features=words), TfidfTransformer(), classifier)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # folds in which a class has few documents; the report tells what it is worth
        pipeline.fit(list(texts), list(topics))
    vectorizer, tfidf = pipeline[0], pipeline[1]
    folds = classifier.calibrated_classifiers_
    coefficients = np.stack([_all_classes(fold.estimator.coef_) for fold in folds])
    intercepts = np.stack([_all_classes(fold.estimator.intercept_[:, None])[:, 0] for fold in folds])
    curves = tuple(tuple(_curves(fold, len(names))) for fold in folds)
    return TopicModel(
        tuple(names.tolist()),
        tuple(vectorizer.get_feature_names_out().tolist()),
        tfidf.idf_,
        coefficients,
        intercepts,
        curves,
    )


def _all_classes(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """One row per class: a two-class SVC has only that of the second."""
    return weights if len(weights) > 1 else np.concatenate([-weights, weights])


def _curves(fold: object, classes: int) -> list[npt.NDArray[np.float64]]:
    curves = [np.stack([c.X_thresholds_, c.y_thresholds_]) for c in fold.calibrators]  # type: ignore[attr-defined]
    if classes > 2:
        return curves
    # Two classes have one curve; the other is its mirror image.
    x, y = curves[0]
    return [np.stack([-x[::-1], 1 - y[::-1]]), curves[0]]
