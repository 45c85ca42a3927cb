"""A map of videos as it is drawn, in a picture and on the page: colours, marks, legend.

Shapes: N videos.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from numpy.typing import NDArray

from fastdual.evaluate.features import FeatureSet
from fastdual.report.projection import Projection, project

_LEGEND_CLASSES = 24
_MAX_SPLITS = 4
_NO_CLASS = "#98a2b3"


@dataclass(frozen=True, kw_only=True)
class FeatureMap:
    """What a map shows, whatever draws it.

    Attributes:
        projections: Where the videos lie, once per panel.
        colours: [N] colour of each video's class, "#rrggbb"; grey without a class.
        marks: [N] number, in `splits`, of the first split that a video is in; `len(splits)` for
            a video of none.
        splits: Names of the splits that have a mark.
        legend: Name and colour of each class that is shown, at most 24.
        more: Number of classes that the legend leaves out.
    """

    projections: tuple[Projection, ...]
    colours: tuple[str, ...]
    marks: NDArray[np.int64]
    splits: tuple[str, ...]
    legend: tuple[tuple[str, str], ...]
    more: int


def feature_map(features: FeatureSet, splits: Sequence[str] | None = None) -> FeatureMap:
    """Project features into the plane and choose how each video looks there.

    Args:
        features: Of three videos or more.
        splits: Splits that get a mark; None: up to four of those that there are.

    Raises:
        InputError: Fewer than three videos, or no such split.
    """
    splits = _default_splits(features) if splits is None else splits
    marks = np.full(len(features), len(splits))
    for number, name in reversed([*enumerate(splits)]):
        marks[features.split(name)] = number
    classes = np.unique(features.labels[features.labels >= 0]).tolist()
    return FeatureMap(
        projections=tuple(project(features.features)),
        colours=tuple(_colour(features, label) for label in features.labels.tolist()),
        marks=marks,
        splits=tuple(splits),
        legend=tuple(
            (features.class_names[label], _colour(features, label))
            for label in classes[:_LEGEND_CLASSES]
        ),
        more=max(0, len(classes) - _LEGEND_CLASSES),
    )


def _default_splits(features: FeatureSet) -> list[str]:
    names = [name for name in features.splits if len(features.splits[name])]
    return sorted(names, key=lambda name: (not name.endswith("train"), name))[:_MAX_SPLITS]


def _colour(features: FeatureSet, label: int) -> str:
    """Return one of ten well separated colours if they suffice, of twenty otherwise."""
    palette = colormaps["tab10" if len(features.class_names) <= 10 else "tab20"]
    return _NO_CLASS if label < 0 else to_hex(palette(label % palette.N))
