"""A test split for videos that have none: whole groups, some of each class, the same each time."""

import csv
import hashlib
import io
import os
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastdual.errors import InputError
from fastdual.evaluate.features import FeatureSet
from fastdual.loaders.files import write
from fastdual.loaders.index import VideoIndex

ALL = "all"
"""Name of the one split of videos that have neither splits nor classes."""

TEST_SHARE = 0.2
_TEST_NAMES = ("test", "val", "valid", "validation")

V = TypeVar("V", VideoIndex, FeatureSet)


@dataclass(frozen=True)
class HoldOut:
    """How videos are held out where there is no test split.

    Attributes:
        share: Of the videos of each class.
        seed: Decides which.
    """

    share: float = TEST_SHARE
    seed: int = 0


@dataclass(frozen=True)
class Held:
    """What was held out of some videos.

    Attributes:
        how: Share and seed.
        by: "group", or "video" where no group is known.
        num_train, num_test: Videos of the two parts.
        table: The parts as a list that `fastdual index` reads.
    """

    how: HoldOut
    by: str
    num_train: int
    num_test: int
    table: str

    def to_dict(self) -> dict[str, Any]:
        """Return how the parts were made, as a result states it."""
        return {"by": self.by, "share": self.how.share, "seed": self.how.seed}

    def file_in(self, folder: Path) -> Path:
        """Return the list's file in a folder; its name tells one list from another."""
        digest = hashlib.sha256(os.fsencode(self.table)).hexdigest()
        return folder / f"held-out-{digest[:8]}.csv"

    def save(self, folder: Path) -> None:
        """Write the list into a folder.

        Raises:
            FailureError: It cannot be written.
        """
        write(self.file_in(folder), self.table, "the list of held-out videos")

    def describe(self, folder: Path) -> str:
        """Return lines for people; `folder` is where the list is kept."""
        what = "by whole groups" if self.by == "group" else "video by video"
        return (
            f"split     none is named: {self.num_test} of {self.num_train + self.num_test} videos "
            f"are held out as test, {what}\n"
            f"          (--test-share {self.how.share:g} --split-seed {self.how.seed}), listed in "
            f"{self.file_in(folder)}\n"
            "          a run on all videos has seen them, too, without labels"
        )


def choose_splits(
    videos: V, train: str | None, test: str | None, how: HoldOut
) -> tuple[V, tuple[str, str], Held | None]:
    """Return videos with two splits to measure, the names of those, and how they were made.

    Args:
        videos: An index, or features.
        train, test: Names that were asked for; without any, "train" and "test", or the usual name
            in place of "test"; where there are none, videos are held out.
        how: Which videos are held out then.

    Raises:
        InputError: The splits have other names, or too few videos for two.
    """
    if train is None and test is None:
        known = set(videos.splits)
        tests = [name for name in _TEST_NAMES if name in known]
        if known <= {"train"}:
            divided, held = hold_out(videos, "train" if known else None, how)
            return divided, ("train", "test"), held
        if "train" in known and tests:
            return videos, ("train", tests[0]), None
        families = sorted(name.removesuffix("/train") for name in known if name.endswith("/train"))
        if families:
            raise InputError(
                f"the data have several splits ({', '.join(sorted(known))}): name one, as in "
                f"--split {families[0]}"
            )
    return videos, (train or "train", test or "test"), None


def as_one_set(videos: V) -> V | None:
    """Return two videos or more, without splits and classes, with the one split ALL; else None.

    Nothing can be counted of such videos, so none is held out: each is looked up among the others.
    """
    if videos.splits or (videos.labels >= 0).any() or len(videos) < 2:
        return None
    return replace(videos, splits={ALL: videos.split(None)})


def hold_out(videos: V, split: str | None, how: HoldOut) -> tuple[V, Held]:
    """Divide the videos of a split (None: all) into the splits "train" and "test".

    Videos of one group, or with the same contents, stay together. Every class keeps a training
    video, and has a test video where it has enough.

    Raises:
        InputError: There is no part that can be held out.
    """
    rows = videos.split(split)
    if isinstance(videos, VideoIndex):
        contents: Sequence[bytes] = [videos.sha256[row].tobytes() for row in rows]
    else:
        contents = [videos.features[row].tobytes() for row in rows]
    groups = [videos.groups[row] for row in rows]
    units = _units([videos.paths[row] for row in rows], groups, contents)
    labels = videos.labels[rows]
    chosen = _choose(labels.tolist(), units, how)
    by = "group" if any(groups) else "video"
    if not chosen.any():
        raise InputError(
            f"{len(rows)} videos cannot be divided into training and test videos by {by}: a class "
            f"needs two {by}s; name two splits, or index more videos"
        )
    parts = {"train": rows[~chosen], "test": rows[chosen]}
    divided = replace(videos, splits=parts)
    held = Held(how, by, len(parts["train"]), len(parts["test"]), _table(videos, parts))
    return divided, held


def _units(
    paths: Sequence[str], groups: Sequence[str], contents: Sequence[bytes]
) -> dict[str, list[int]]:
    """Return the rows that must stay together, by the first path among them."""
    first: dict[Hashable, int] = {}
    parent = list(range(len(paths)))

    def find(row: int) -> int:
        while parent[row] != row:
            parent[row] = row = parent[parent[row]]
        return row

    for row, (group, content) in enumerate(zip(groups, contents, strict=True)):
        for key in [content] + ([group] if group else []):
            parent[find(row)] = find(first.setdefault(key, row))
    units: defaultdict[int, list[int]] = defaultdict(list)
    for row in range(len(paths)):
        units[find(row)].append(row)
    return {groups[rows[0]] or paths[rows[0]]: rows for rows in units.values()}


def _choose(
    labels: Sequence[int], units: Mapping[str, Sequence[int]], how: HoldOut
) -> NDArray[np.bool_]:
    """Return which rows are held out: units in an order that only the seed and their names decide.

    A unit is taken where one of its classes has too few held out, but none loses its last.
    """
    left = Counter(labels)
    wanted = {label: round(how.share * count) or 1 for label, count in left.items()}
    chosen = np.zeros(len(labels), dtype=bool)

    def place(name: str) -> bytes:
        return hashlib.sha256(os.fsencode(f"{how.seed}/{name}")).digest()

    for name in sorted(units, key=place):
        counts = Counter(labels[row] for row in units[name])
        is_wanted = any(wanted[label] > 0 for label in counts)
        if is_wanted and all(left[label] > count for label, count in counts.items()):
            chosen[list(units[name])] = True
            left.subtract(counts)
            for label, count in counts.items():
                wanted[label] -= count
    return chosen


def _table(videos: VideoIndex | FeatureSet, parts: Mapping[str, NDArray[np.int64]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "label", "group", "split"))
    for split, rows in parts.items():
        for row in rows.tolist():
            number = int(videos.labels[row])
            label = videos.class_names[number] if number >= 0 else ""
            writer.writerow((videos.paths[row], label, videos.groups[row], split))
    return text.getvalue()
