"""Principal components and t-SNE: what is there is found, and found again."""

import numpy as np
import pytest

from fastdual.errors import InputError
from fastdual.report.projection import project
from tests.evaluate.test_features import feature_set


def test_principal_components_find_the_plane_the_videos_lie_in() -> None:
    rng = np.random.default_rng(0)
    angles = rng.uniform(0, 2 * np.pi, 200)
    plane = np.stack([3 * np.cos(angles), np.sin(angles)], axis=1)
    features = (plane @ np.linalg.qr(rng.standard_normal((6, 2)))[0].T).astype(np.float32)
    components, tsne = project(features)
    shares = [
        int(label.split("(")[1].split("%")[0]) for label in (components.x_label, components.y_label)
    ]
    assert sum(shares) in (99, 100, 101)
    assert tsne.points.shape == (200, 2)
    again = project(features)
    assert np.array_equal(components.points, again[0].points)
    assert np.array_equal(tsne.points, again[1].points)


def test_tsne_keeps_apart_what_is_apart() -> None:
    rng = np.random.default_rng(0)
    centres = np.repeat(np.eye(3, 16), 20, axis=0)
    features = (centres + 0.02 * rng.standard_normal((60, 16))).astype(np.float32)
    points = project(features)[1].points.reshape(3, 20, 2)
    spread = np.linalg.norm(points - points.mean(axis=1, keepdims=True), axis=2).max()
    gaps = np.linalg.norm(points.mean(axis=1)[:, None] - points.mean(axis=1)[None], axis=2)
    assert gaps[gaps > 0].min() > spread


def test_few_videos_get_no_tsne_and_two_no_map() -> None:
    features = feature_set(6)
    assert len(project(features.features)) == 1
    with pytest.raises(InputError, match="a map of 2 videos shows nothing"):
        project(features.features[:2])
