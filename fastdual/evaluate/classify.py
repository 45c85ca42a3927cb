"""What a classifier got right: top-1, top-5, each class, confusions, and their intervals.

Shapes: Q test videos, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUM_RESAMPLES = 1000
CONFIDENCE = 0.95
# With fewer groups than this, videos are resampled instead of groups, and the result says so.
MIN_GROUPS = 10


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Scores of test videos and their true classes.

    Attributes:
        scores: [Q, C] higher is likelier.
        labels: [Q] true class numbers.
        groups: [Q] what each video was cut from, "" where unknown.
        class_names: [C].
    """

    scores: NDArray[np.float64]
    labels: NDArray[np.int32]
    groups: tuple[str, ...]
    class_names: tuple[str, ...]

    def correct(self, k: int) -> NDArray[np.bool_]:
        """Return [Q] whether the true class is among the k likeliest; a tie counts as a miss."""
        own = self.scores[np.arange(len(self.labels)), self.labels]
        # A score equal to the true one outranks it as well.
        return np.asarray((self.scores >= own[:, None]).sum(axis=1) <= k)

    def confusion(self) -> NDArray[np.int64]:
        """Return [C, C] the number of videos by true class (row) and predicted class (column)."""
        count = len(self.class_names)
        table = np.zeros((count, count), dtype=np.int64)
        np.add.at(table, (self.labels, self.scores.argmax(axis=1)), 1)
        return table

    def report(self) -> dict[str, Any]:
        """Return plain values: metrics with their intervals, accuracy per class, confusions."""
        top1 = self.correct(1)
        metrics = {"top1": interval(top1, self.groups)}
        if len(self.class_names) > 5:
            metrics["top5"] = interval(self.correct(5), self.groups)
        per_class = {
            name: {"accuracy": float(top1[rows].mean()), "videos": int(rows.sum())}
            for number, name in enumerate(self.class_names)
            if (rows := self.labels == number).any()
        }
        return {
            "metrics": metrics,
            "commonest_class": float(np.bincount(self.labels).max() / len(self.labels)),
            "mean_class_accuracy": float(np.mean([c["accuracy"] for c in per_class.values()])),
            "per_class": per_class,
            "class_names": list(self.class_names),
            "confusion": self.confusion().tolist(),
        }


def interval(hits: NDArray[Any], groups: Sequence[str], *, seed: int = 0) -> dict[str, Any]:
    """Return the share of hits with its bootstrap interval (percentiles of 1000 resamples).

    Videos of one group (film, signer) succeed and fail together, so whole groups are drawn if
    there are enough of them; `resampled` says which it was.

    Args:
        hits: [Q] right or wrong, or a share of right answers.
        groups: [Q], "" where unknown.
        seed: Of the resampling.
    """
    names, members = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    by_group = len(names) >= MIN_GROUPS and "" not in names
    units = members if by_group else np.arange(len(hits))
    won, size = np.bincount(units, weights=hits), np.bincount(units).astype(np.float64)
    rng = np.random.default_rng(seed)
    shares = []
    for _ in range(NUM_RESAMPLES):
        drawn = rng.integers(len(size), size=len(size))
        shares.append(won[drawn].sum() / size[drawn].sum())
    low, high = np.quantile(shares, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return {
        "value": float(np.mean(hits)),
        "low": float(low),
        "high": float(high),
        "confidence": CONFIDENCE,
        "resampled": "groups" if by_group else "videos",
    }
