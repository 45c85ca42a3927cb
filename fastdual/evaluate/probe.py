"""Linear probe on cached features: multinomial logistic regression, fitted by L-BFGS.

The strength of the L2 penalty is chosen on training videos held out by whole groups (each group in
turn where there are few videos), then all of them are fitted with it. Test videos are seen once.

Shapes: N training videos, Q test videos, F features, C classes.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdual.errors import InputError
from fastdual.evaluate.classify import Classification
from fastdual.evaluate.features import FeatureSet
from fastdual.evaluate.pairs import check_pair

PENALTIES = tuple(10.0**power for power in range(0, -7, -1))
_MAX_FOLDS = 5
# A single fold of few videos chooses by luck: up to this many videos, every fold is used.
_MAX_CROSS_VALIDATED = 2000
_MAX_ITERATIONS = 1000


@dataclass(frozen=True)
class ProbeResult:
    """What a probe scored, and how it was fitted.

    Attributes:
        classification: Scores and truth of the test videos.
        penalty: The chosen strength of the L2 penalty, for each training video.
        validation: Validation accuracy by penalty.
        validated_by: "group" or "video": what the validation videos were held out by.
    """

    classification: Classification
    penalty: float
    validation: dict[float, float]
    validated_by: str

    def details(self) -> dict[str, Any]:
        """Return how it was fitted, as plain values."""
        return {
            "penalty": self.penalty,
            "validation_top1": {f"{penalty:g}": top1 for penalty, top1 in self.validation.items()},
            "validated_by": self.validated_by,
        }


def probe(train: FeatureSet, test: FeatureSet, *, seed: int = 0) -> ProbeResult:
    """Fit a linear classifier on the features of `train`, and score those of `test`.

    Args:
        train: Labelled videos; their mean and deviation standardise both sides.
        test: Videos of the same network and classes.
        seed: Decides which training videos choose the penalty.

    Raises:
        InputError: A pair that cannot be compared (see `check_pair`), or one class.
    """
    test_labels = check_pair(train, test)
    if len(np.unique(train.labels)) < 2:
        raise InputError(
            "all training videos have one class; a probe needs 2: index them with their classes"
        )
    mean, scale = _standardisation(train.features)
    features = (train.features - mean) / scale
    validation, validated_by = _validate(features, train, seed)
    # Among equals, take the strongest penalty.
    best = max(validation, key=lambda penalty: (validation[penalty], penalty))
    scores = _fit_and_score(
        features, train.labels, (test.features - mean) / scale, best, len(train.class_names)
    )
    classification = Classification(
        scores=scores, labels=test_labels, groups=test.groups, class_names=train.class_names
    )
    return ProbeResult(classification, best, validation, validated_by)


def _standardisation(features: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
    wide = features.astype(np.float64)
    deviation = wide.std(axis=0)
    # A constant feature says nothing; scaling must not blow it up where the test videos differ.
    return wide.mean(axis=0), np.where(deviation > 1e-6 * deviation.max(), deviation, np.inf)


def _validate(
    features: NDArray[np.float64], train: FeatureSet, seed: int
) -> tuple[dict[float, float], str]:
    """Return accuracy on held-out training videos by penalty, and what they were held out by."""
    folds, validated_by = _folds(train, seed)
    accuracy = {}
    for penalty in PENALTIES:
        hits = []
        for fit, held in folds:
            scores = _fit_and_score(
                features[fit], train.labels[fit], features[held], penalty, len(train.class_names)
            )
            hits.append(scores.argmax(axis=1) == train.labels[held])
        accuracy[penalty] = float(np.concatenate(hits).mean())
    return accuracy, validated_by


def _folds(train: FeatureSet, seed: int) -> tuple[list[tuple[NDArray[Any], NDArray[Any]]], str]:
    """Return rows to fit and to validate on: whole groups, classes in equal shares if possible."""
    from sklearn.model_selection import StratifiedGroupKFold

    groups, validated_by = np.array(train.groups), "group"
    if "" in train.groups or len(np.unique(groups)) < 2:
        groups, validated_by = np.arange(len(train)), "video"
    largest_class = int(np.bincount(train.labels).max())
    count = min(_MAX_FOLDS, len(np.unique(groups)), largest_class)
    if count < 2:
        raise InputError(
            f"{len(train)} training videos, one of each class: none can be held out to choose the "
            "penalty; use fastdual knn --k 1"
        )
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class smaller than the number of folds
        pairs = list(splitter.split(train.features, train.labels, groups))
    usable = [(f, h) for f, h in pairs if len(h) and len(np.unique(train.labels[f])) >= 2]
    if not usable:
        raise InputError(
            "each group of the training videos holds one class only, so none can be held out to "
            "choose the penalty; leave the groups out of the index"
        )
    return usable[: None if len(train) <= _MAX_CROSS_VALIDATED else 1], validated_by


def _fit_and_score(
    features: NDArray[np.float64],
    labels: NDArray[np.int32],
    others: NDArray[np.float64],
    penalty: float,
    num_classes: int,
) -> NDArray[np.float64]:
    """Return log-probabilities [Q, C] of `others`; -inf for a class without a training video."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1.0 / (penalty * len(labels)), max_iter=_MAX_ITERATIONS)
    with warnings.catch_warnings():
        # A weak penalty on separable videos has no optimum within reach; validation judges it.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features, labels)
    scores = np.full((len(others), num_classes), -np.inf)
    scores[:, model.classes_] = model.predict_log_proba(others)
    return scores
