"""Two dimensions of many: principal components and t-SNE.

Shapes: N videos, F features.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fastdual.errors import InputError
from fastdual.evaluate.retrieval import centre_and_normalise

# t-SNE of more takes minutes; an even sample of them shows the same.
MAX_TSNE_VIDEOS = 4000
_MIN_VIDEOS, _MIN_TSNE_VIDEOS = 3, 8


@dataclass(frozen=True, kw_only=True)
class Projection:
    """Points of some of the videos in a plane.

    Attributes:
        points: [M, 2].
        rows: [M] which videos they are.
        title, x_label, y_label: For a picture.
        has_scale: Whether the coordinates mean anything by themselves.
    """

    points: NDArray[np.float64]
    rows: NDArray[np.int64]
    title: str
    x_label: str
    y_label: str
    has_scale: bool


def project(features: NDArray[np.float32]) -> list[Projection]:
    """Return principal components and, for eight videos or more that differ, t-SNE.

    Of the features centred and normalised: the space in which retrieval looks for neighbours.

    Args:
        features: [N, F].

    Raises:
        InputError: Fewer than three videos.
    """
    if len(features) < _MIN_VIDEOS:
        raise InputError(f"a map of {len(features)} videos shows nothing; it takes 3 or more")
    rows = centre_and_normalise(torch.from_numpy(features)).numpy()
    projections = [_principal_components(rows)]
    if len(rows) >= _MIN_TSNE_VIDEOS and rows.any():
        projections.append(_tsne(rows))
    return projections


def _principal_components(rows: NDArray[np.float64]) -> Projection:
    centred = rows - rows.mean(axis=0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    # A direction and its opposite are the same component: the largest entry is made positive.
    largest = np.abs(directions[:2]).argmax(axis=1)
    signs = np.where(directions[np.arange(len(largest)), largest] < 0, -1.0, 1.0)
    points = centred @ (directions[:2] * signs[:, None]).T
    total = max(float((singular**2).sum()), np.finfo(np.float64).tiny)
    shares = singular[:2] ** 2 / total
    labels = [f"component {i + 1} ({share:.0%} of the variance)" for i, share in enumerate(shares)]
    return Projection(
        points=points,
        rows=np.arange(len(rows)),
        title="principal components",
        x_label=labels[0],
        y_label=labels[1],
        has_scale=True,
    )


def _tsne(rows: NDArray[np.float64]) -> Projection:
    from sklearn.manifold import TSNE

    chosen = np.arange(len(rows))
    title = "t-SNE"
    if len(rows) > MAX_TSNE_VIDEOS:
        chosen = np.linspace(0, len(rows) - 1, MAX_TSNE_VIDEOS).astype(np.int64)
        title = f"t-SNE of {MAX_TSNE_VIDEOS} of {len(rows)} videos"
    perplexity = min(30.0, (len(chosen) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", learning_rate="auto", random_state=0)
    points = tsne.fit_transform(rows[chosen]).astype(np.float64)
    return Projection(
        points=points,
        rows=chosen,
        title=f"{title}, perplexity {perplexity:.0f}",
        x_label="t-SNE 1 (no unit)",
        y_label="t-SNE 2 (no unit)",
        has_scale=False,
    )
