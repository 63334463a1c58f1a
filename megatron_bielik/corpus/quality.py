"""HIGH, MEDIUM or LOW: gradient-boosted trees (XGBoost) over the stylometric features, with the published settings.

Two objectives. softprob: three classes without an order, as published. ordinal: two binary models in one file, P(above LOW)
and P(above MEDIUM), from which the classes follow (Frank and Hall 2001). The file is XGBoost's own JSON; it carries the version
and language of the features it was trained on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from megatron_bielik.corpus.features import FEATURE_NAMES
from megatron_bielik.corpus.labelled import LABELS
from megatron_bielik.corpus.records import write_whole

if TYPE_CHECKING:
    import xgboost  # takes a second to import, which every worker of the pipeline would wait for

LOW, MEDIUM, HIGH = range(3)
_FORMAT = "megatron_bielik quality 1"
Objective = Literal["softprob", "ordinal"]


class QualityError(ValueError):
    """A model or labels that cannot be used."""


@dataclass(frozen=True)
class QualityOptions:
    """How the trees are grown; the defaults are those of the Bielik v3 Small report.

    Args:
        objective: softprob or ordinal, see the module.
        class_weights: none; balanced, where each class counts as much as another, whatever its share; or weights of
            LOW, MEDIUM, HIGH.
        n_estimators: Rounds.
        max_depth: Of a tree.
        learning_rate: Shrinkage of each round.
        subsample: Share of documents per round.
        colsample_bytree: Share of features per tree.
        reg_alpha: L1.
        reg_lambda: L2.
        seed: Of the shares.
        threads: Of XGBoost; the trees are the same for any number.
    """

    objective: Objective = "softprob"
    class_weights: Literal["none", "balanced"] | tuple[float, float, float] = "none"
    n_estimators: int = 250
    max_depth: int = 8
    learning_rate: float = 0.08
    subsample: float = 0.75
    colsample_bytree: float = 0.8
    reg_alpha: float = 0.2
    reg_lambda: float = 0.5
    seed: int = 42
    threads: int = 1


@dataclass(frozen=True)
class QualityModel:
    """A trained classifier.

    Args:
        booster: XGBoost's model.
        objective: What its outputs mean.
        features: Version of the features it takes.
    """

    booster: xgboost.Booster
    objective: Objective
    features: str

    def probabilities(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """P(LOW), P(MEDIUM), P(HIGH) of each document: float32 [documents, 3], rows sum to one.

        Args:
            rows: Features, float32 [documents, 200].
        """
        if len(rows) == 0:
            return np.zeros((0, 3), np.float32)
        out = self.booster.inplace_predict(rows)
        if self.objective == "softprob":
            return np.asarray(out, np.float32)
        above_low, above_medium = out[:, 0], np.minimum(out[:, 1], out[:, 0])
        return np.stack([1 - above_low, above_low - above_medium, above_medium], axis=1).astype(np.float32)

    def shap(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """SHAP values (Lundberg et al. 2020, computed by XGBoost) in log-odds: float32 [outputs, documents, 200].

        Outputs are LOW, MEDIUM, HIGH for softprob; above LOW, above MEDIUM for ordinal.
        """
        import xgboost

        values = self.booster.predict(xgboost.DMatrix(rows), pred_contribs=True, strict_shape=True)
        return np.moveaxis(np.asarray(values, np.float32), 1, 0)[:, :, :-1]

    def save(self, path: Path) -> None:
        """Write the model; it appears under its name when it is complete.

        Raises:
            QualityError: A name that does not end in .json.
            DataError: The disk refuses.
        """
        if path.suffix != ".json":
            raise QualityError(f"--output is {path}, needs a name that ends in .json")
        about = {"format": _FORMAT, "features": self.features, "objective": self.objective, "names": FEATURE_NAMES}
        self.booster.set_attr(megatron_bielik=json.dumps(about))
        write_whole(path, bytes(self.booster.save_raw("json")))


def load_quality_model(path: Path, features: str) -> QualityModel:
    """Read a model.

    Args:
        path: Its .json file.
        features: Version of the features at hand (FeatureExtractor.version).

    Raises:
        QualityError: No such model, a damaged file, or one trained on other features or another language.
    """
    import xgboost

    booster = xgboost.Booster()
    try:
        json.loads(path.read_bytes())  # XGBoost ends the process for some damaged files
        booster.load_model(path)
        about = json.loads(booster.attr("megatron_bielik") or "{}")
    except FileNotFoundError as error:
        raise QualityError(f"{path} does not exist; train a model with tools/train_quality_classifier.py") from error
    except (OSError, ValueError, xgboost.core.XGBoostError) as error:
        raise QualityError(f"{path} is no quality model, or is damaged: {str(error).splitlines()[0][:120]}") from error
    if about.get("format") != _FORMAT:
        raise QualityError(f"{path} was not written by tools/train_quality_classifier.py of this version")
    if about["features"] != features or tuple(about["names"]) != FEATURE_NAMES:
        raise QualityError(
            f"{path} was trained on features {about['features']}, these are {features} "
            "(version, language and pipeline must be the same); train it anew"
        )
    return QualityModel(booster, about["objective"], features)


def train_quality_model(
    rows: npt.NDArray[np.float32], classes: npt.NDArray[np.int64], features: str, options: QualityOptions | None = None
) -> QualityModel:
    """Grow the trees.

    Args:
        rows: Features, float32 [documents, 200].
        classes: int64 [documents], 0 to 2 for LOW, MEDIUM, HIGH.
        features: Version of the features.
        options: How.

    Raises:
        QualityError: A class without a document.
    """
    import xgboost

    options = options or QualityOptions()
    present = np.bincount(classes, minlength=3)
    if not present.all():
        lacking = ", ".join(name for name, count in zip(LABELS, present, strict=True) if not count)
        raise QualityError(f"no document is labelled {lacking}; every class needs at least one")
    if options.objective == "ordinal":
        target: npt.NDArray[np.float32] = np.stack([classes > LOW, classes > MEDIUM], axis=1).astype(np.float32)
        task = {"objective": "binary:logistic", "eval_metric": "logloss"}
    else:
        target = classes.astype(np.float32)
        task = {"objective": "multi:softprob", "eval_metric": "mlogloss", "num_class": "3"}
    settings = {
        key: value
        for key, value in asdict(options).items()
        if key in ("max_depth", "learning_rate", "subsample", "colsample_bytree", "reg_alpha", "reg_lambda", "seed")
    }
    data = xgboost.DMatrix(
        rows,
        target,
        weight=_weights(classes, present, options),
        feature_names=list(FEATURE_NAMES),
        nthread=options.threads,
    )
    booster = xgboost.train(settings | task | {"nthread": options.threads}, data, options.n_estimators)
    booster.feature_names = None  # they stand in the model's own entry; rows come without names
    return QualityModel(booster, options.objective, features)


def label_numbers(labels: Sequence[str]) -> npt.NDArray[np.int64]:
    """0, 1, 2 for LOW, MEDIUM, HIGH: int64 [labels].

    Raises:
        QualityError: Another label, with its place.
    """
    numbers = {name: number for number, name in enumerate(LABELS)}
    for place, label in enumerate(labels):
        if label not in numbers:
            raise QualityError(f"document {place + 1} is labelled {label!r}, needs HIGH, MEDIUM or LOW")
    return np.array([numbers[label] for label in labels], np.int64)


def _weights(
    classes: npt.NDArray[np.int64], present: npt.NDArray[np.int64], options: QualityOptions
) -> npt.NDArray[np.float32] | None:
    if options.class_weights == "none":
        return None
    if options.class_weights == "balanced":
        by_class = len(classes) / (3 * present)
    else:
        by_class = np.array(options.class_weights)
        if not (np.isfinite(by_class).all() and (by_class > 0).all()):
            raise QualityError(f"--class-weights is {options.class_weights}, needs three positive numbers")
    return by_class[classes].astype(np.float32)
