"""Feature sets drawn from known classes, and results, for tests of what reads them."""

from typing import Any

import numpy as np

from fastdual.evaluate.features import FeatureSet
from fastdual.evaluate.results import make_result


def drawn_features(
    *, seed: int, classes: int = 4, each: int = 12, noise: float = 0.5, offset: float = 0.0
) -> FeatureSet:
    """`each` videos a class around its axis of 8-dimensional space, 4 groups that span classes."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes, dtype=np.int32), each)
    features = noise * rng.standard_normal((len(labels), 8)) + 2 * np.eye(8)[labels] + offset
    count = len(labels)
    return FeatureSet(
        features=features.astype(np.float32),
        paths=tuple(f"{seed}/v{i}.mp4" for i in range(count)),
        labels=labels,
        class_names=tuple(f"class{c}" for c in range(classes)),
        groups=tuple(f"{seed}-film{i % 4}" for i in range(count)),
        splits={"all": np.arange(count)},
        weights_sha256="ab" * 32,
        data_fingerprint="cd" * 32,
        settings={"clips_per_video": 10},
    )


def made_split(test: str, **metrics: float) -> dict[str, Any]:
    """The numbers of a pair of splits, without an interval."""
    return {
        "train": test.replace("test", "train"),
        "test": test,
        "num_train": 20,
        "num_test": 10,
        "metrics": {name: {"value": v, "low": v, "high": v} for name, v in metrics.items()},
        "overlaps": [],
        "left_out": {"test": []},
    }


def made_result(*splits: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A result of `splits`, with other values of `make_result` as `changes`."""
    given: dict[str, Any] = {
        "task": "knn",
        "command": "fastdual knn",
        "weights_sha256": "ab" * 32,
        "data_fingerprint": "cd" * 32,
        "settings": {"clips_per_video": 10, "k": 20},
        "splits": splits,
    }
    return make_result(**(given | changes))
