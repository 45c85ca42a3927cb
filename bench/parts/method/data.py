"""The data sets of bench.method: packed at the size that is trained on, split by whole groups."""

import csv
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.parts.method.contestants import FINETUNE_STEPS
from fastdual.evaluate.hygiene import index_overlaps, settle_overlaps
from fastdual.loaders.index import VideoIndex, open_index
from fastdual.loaders.pack import PackOptions, Transcoding, pack

_SHORT_SIDE = 64  # a little above the 54 x 72 that clips are resized to
_SEARCH_FOLD = 0


@dataclass(frozen=True)
class DataSet:
    """Videos with classes and groups (signers, speakers, sequences).

    Attributes:
        name: Of its list of videos, NAME.csv.
        folder: Where that lies.
        frame_stride: Of the clips: 8 frames that span much of a video.
        num_folds: Parts of the groups, each of which is tested on once.
    """

    name: str
    folder: Path
    frame_stride: int
    num_folds: int

    @cached_property
    def rows(self) -> list[dict[str, str]]:
        """The list of videos."""
        with open(self.folder / f"{self.name}.csv", newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    @cached_property
    def digest(self) -> str:
        """Which videos, labels and groups these are, on whatever machine."""
        rows = sorted((row["path"], row["label"], row["group"]) for row in self.rows)
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]

    def open(self, work: Path) -> VideoIndex:
        """Return the pack of the set, made where there is none."""
        work.mkdir(parents=True, exist_ok=True)
        output = work / f"{self.name}-{self.digest}.h5"
        options = PackOptions(transcoding=Transcoding(short_side=_SHORT_SIDE))
        return pack(open_index(self.folder / f"{self.name}.csv"), output, options)


SETS = {  # name: frame stride, folds
    "mlr511": (3, 4),
    "avletters": (2, 5),
    "miracl_phrases": (2, 5),
    "ut_interaction": (8, 5),
}


def data_sets(folder: Path, names: list[str]) -> list[DataSet]:
    """Return sets of a folder that holds NAME.csv and their videos."""
    return [DataSet(name, folder, *SETS[name]) for name in names]


def fold_of(index: VideoIndex, data: DataSet, fold: int, *, search: bool) -> VideoIndex:
    """Return the index with the splits of a fold: `test`, `train`, `train-30` and `train-10`.

    Whole groups are tested. In the search, the test groups of fold 0 are left out altogether, and a
    third of the other groups is tested instead.

    Args:
        index: Of the set.
        data: The set.
        fold: Number of the fold, from 0.
        search: Whether settings are searched for.
    """
    groups = np.array(index.groups)
    names = sorted(set(index.groups))
    tested = names[fold :: data.num_folds]
    if search:
        left = [name for name in names if name not in names[_SEARCH_FOLD :: data.num_folds]]
        tested, names = left[::3], left
    test = np.flatnonzero(np.isin(groups, tested))
    train = np.flatnonzero(np.isin(groups, [name for name in names if name not in tested]))
    splits = {"test": test, "train": train}
    for percent in FINETUNE_STEPS:
        splits[split_name(percent)] = np.sort(_share(index.labels, train, percent, fold))
    return replace(index, splits=splits)


def split_name(percent: int) -> str:
    """Return the split that holds so many per cent of the training labels."""
    return "train" if percent == 100 else f"train-{percent}"


def _share(
    labels: NDArray[np.int32], train: NDArray[np.int64], percent: int, seed: int
) -> NDArray[np.int64]:
    """Choose a share of each class, at least one video; smaller shares lie within larger ones."""
    return np.concatenate([*_shares(labels, train, percent, seed)])


def _shares(
    labels: NDArray[np.int32], train: NDArray[np.int64], percent: int, seed: int
) -> Iterator[NDArray[np.int64]]:
    order = np.random.default_rng(seed).permutation(train)
    for label in np.unique(labels[train]):
        videos = order[labels[order] == label]
        yield videos[: max(1, round(len(videos) * percent / 100))]


def check_overlaps(index: VideoIndex) -> None:
    """Raise an InputError if a test video is also among the training videos of a fold."""
    settle_overlaps([index_overlaps(index, "train", "test")], allowed=False)
