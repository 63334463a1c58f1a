"""What a quality classifier is worth: scores per class, confusion, calibration and SHAP, as JSON, Markdown and pictures."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from megatron_bielik.corpus.features import FEATURE_NAMES
from megatron_bielik.corpus.labelled import LABELS
from megatron_bielik.corpus.quality import QualityModel
from megatron_bielik.corpus.records import save_picture, write_whole

_BINS = 10
_SHAP_DOCUMENTS = 1000


@dataclass(frozen=True)
class ClassScore:
    """Of one class: precision, recall and F1 of the likeliest class, documents, and how far P(class) is from its frequency.

    calibration_error is the mean over ten equal bins of |mean P - frequency|, weighted by documents (Naeini et al. 2015).
    """

    precision: float
    recall: float
    f1: float
    documents: int
    calibration_error: float


@dataclass(frozen=True)
class QualityScores:
    """Scores on a labelled set. confusion: rows are labels, columns are predictions, in the order LOW, MEDIUM, HIGH."""

    documents: int
    accuracy: float
    macro_f1: float
    classes: dict[str, ClassScore]
    confusion: list[list[int]]


def evaluate(probabilities: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> QualityScores:
    """Scores of the likeliest class.

    Args:
        probabilities: float32 [documents, 3].
        labels: int64 [documents], 0 to 2 for LOW, MEDIUM, HIGH.
    """
    predicted = probabilities.argmax(axis=1)
    precision, recall, f1, count = precision_recall_fscore_support(labels, predicted, labels=[0, 1, 2], zero_division=0)
    classes = {
        name: ClassScore(
            float(precision[i]),
            float(recall[i]),
            float(f1[i]),
            int(count[i]),
            _calibration_error(probabilities[:, i], labels == i),
        )
        for i, name in enumerate(LABELS)
    }
    confusion = confusion_matrix(labels, predicted, labels=[0, 1, 2]).tolist()
    return QualityScores(len(labels), float((predicted == labels).mean()), float(np.mean(f1)), classes, confusion)


def _bins(probabilities: npt.NDArray[np.float32], hits: npt.NDArray[np.bool_]) -> list[tuple[float, float, int]]:
    """Mean P, frequency and number of documents of each bin that has any."""
    number = np.minimum((probabilities * _BINS).astype(int), _BINS - 1)
    chosen = [number == i for i in range(_BINS)]
    return [(float(probabilities[c].mean()), float(hits[c].mean()), int(c.sum())) for c in chosen if c.any()]


def _calibration_error(probabilities: npt.NDArray[np.float32], hits: npt.NDArray[np.bool_]) -> float:
    return sum(n * abs(mean - share) for mean, share, n in _bins(probabilities, hits)) / max(len(hits), 1)


def importance(model: QualityModel, rows: npt.NDArray[np.float32]) -> dict[str, float]:
    """Mean |SHAP| of each feature over documents and outputs, log-odds, largest first; of the first 1,000 documents."""
    mean = np.abs(model.shap(rows[:_SHAP_DOCUMENTS])).mean(axis=(0, 1))
    return {FEATURE_NAMES[i]: float(mean[i]) for i in np.argsort(-mean, kind="stable")}


def write_report(
    folder: Path,
    model: QualityModel,
    sets: dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]],
    about: dict[str, Any],
) -> dict[str, QualityScores]:
    """Write report.json, report.md, confusion.png, calibration.png and importance.png.

    Args:
        folder: Is made.
        model: What is judged.
        sets: Features and labels by name; pictures are drawn of the first.
        about: What else the report shall say, by name.

    Returns:
        Scores by name of the set.
    """
    folder.mkdir(parents=True, exist_ok=True)
    probabilities = {name: model.probabilities(rows) for name, (rows, _) in sets.items()}
    scores = {name: evaluate(probabilities[name], labels) for name, (_, labels) in sets.items()}
    first = next(iter(sets))
    shap = importance(model, sets[first][0])
    _draw(folder, first, scores[first], probabilities[first], sets[first][1], shap)
    content = {**about, "features": model.features, "objective": model.objective}
    content["scores"] = {name: asdict(score) for name, score in scores.items()}
    content["importance"] = shap
    write_whole(folder / "report.md", _markdown(scores, shap, about))
    write_whole(folder / "report.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return scores


def _markdown(scores: dict[str, QualityScores], shap: dict[str, float], about: dict[str, Any]) -> str:
    lines = ["# Quality classifier", "", *(f"- {key}: {value}" for key, value in about.items())]
    for name, score in scores.items():
        lines += [
            "",
            f"## {name}",
            "",
            f"{score.documents:,} documents, accuracy {score.accuracy:.3f}, macro-F1 {score.macro_f1:.3f}.",
            "",
        ]
        lines += ["| class | precision | recall | F1 | documents | calibration error |", "|---|--:|--:|--:|--:|--:|"]
        for label, one in score.classes.items():
            figures = " | ".join(f"{x:.3f}" for x in (one.precision, one.recall, one.f1))
            lines.append(f"| {label} | {figures} | {one.documents:,} | {one.calibration_error:.3f} |")
        lines += ["", "| label, predicted as | " + " | ".join(LABELS) + " |", "|---|--:|--:|--:|"]
        lines += [
            f"| {label} | " + " | ".join(map(str, row)) + " |"
            for label, row in zip(LABELS, score.confusion, strict=True)
        ]
    lines += ["", "## Features", "", "Mean |SHAP|, log-odds:", "", "| feature | |", "|---|--:|"]
    lines += [f"| {name} | {value:.3f} |" for name, value in list(shap.items())[:20]]
    lines += ["", *(f"![{name}]({name}.png)" for name in ("confusion", "calibration", "importance"))]
    return "\n".join(lines) + "\n"


def _draw(
    folder: Path,
    name: str,
    score: QualityScores,
    probabilities: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    shap: dict[str, float],
) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(4.6, 4), layout="constrained")
    confusion = np.array(score.confusion)
    axes.imshow(confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(3, 3):
        share = confusion[i, j] / max(confusion[i].sum(), 1)
        axes.text(
            j,
            i,
            f"{confusion[i, j]:,}\n{share:.0%}",
            ha="center",
            va="center",
            color="white" if share > 0.5 else "black",
        )
    axes.set(
        xticks=range(3),
        yticks=range(3),
        xticklabels=LABELS,
        yticklabels=LABELS,
        xlabel="predicted",
        ylabel="label",
        title=name,
    )
    save_picture(figure, folder / "confusion.png")

    figure, axes = pyplot.subplots(figsize=(4.6, 4), layout="constrained")
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    for i, label in enumerate(LABELS):
        bins = _bins(probabilities[:, i], labels == i)
        axes.plot([b[0] for b in bins], [b[1] for b in bins], marker="o", markersize=4, label=label)
    axes.set(xlabel="mean P(class)", ylabel="share of the class", title=f"Calibration: {name}")
    axes.legend()
    save_picture(figure, folder / "calibration.png")

    top = list(shap.items())[:20][::-1]
    figure, axes = pyplot.subplots(figsize=(6.4, 5), layout="constrained")
    axes.barh([feature for feature, _ in top], [value for _, value in top])
    axes.set(xlabel="mean |SHAP|, log-odds", title="What the classifier looks at")
    save_picture(figure, folder / "importance.png")
    pyplot.close("all")
