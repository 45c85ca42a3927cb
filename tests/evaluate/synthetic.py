"""Feature sets drawn from known classes, for tests of what scores them."""

import numpy as np

from fastdual.evaluate.features import FeatureSet


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
