"""Features of a set of videos and the HDF5 file that keeps them.

Shapes: N videos, F features.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdual.errors import InputError
from fastdual.loaders.index.hdf5 import Container, Tables, write_texts

_FEATURES = Container(
    b"fastdual-features ", 3, "a features file", "fastdual embed", "embed the videos again"
)

is_features_file = _FEATURES.claims


@dataclass(frozen=True)
class LeftOut:
    """A video that was wanted and has no features.

    Attributes:
        path: Relative to the root of the index.
        reason: Why there are none.
        splits: Splits that it belongs to; none if unknown, as for what could not be indexed.
    """

    path: str
    reason: str
    splits: tuple[str, ...]


def plain_left_out(videos: Iterable[LeftOut]) -> list[dict[str, str]]:
    """Return videos that were left out as a result names them."""
    return [{"path": video.path, "reason": video.reason} for video in videos]


@dataclass(frozen=True, kw_only=True)
class FeatureSet:
    """One feature vector per video, and all that retrieval and plots need to know of the videos.

    Attributes:
        features: [N, F] pooled backbone features, averaged over a video's clips.
        paths: The videos, relative to the root of their index.
        labels: [N] numbers of classes, -1 where a video has none.
        class_names: Names of the classes.
        groups: [N] what a video was cut from (signer, film, ...), "" where unknown.
        splits: Split name -> sorted row numbers.
        weights_sha256: SHA-256 of the file with the weights, or "random weights, seed N".
        data_fingerprint: Fingerprint of the index.
        settings: How the features were made (backbone, clip size, stride, clips per video).
        left_out: Videos that were wanted and are not here.
        pretrained_on: [N] which videos the network was pretrained on; None where it is not known.
    """

    features: NDArray[np.float32]
    paths: tuple[str, ...]
    labels: NDArray[np.int32]
    class_names: tuple[str, ...]
    groups: tuple[str, ...]
    splits: Mapping[str, NDArray[np.int64]]
    weights_sha256: str
    data_fingerprint: str
    settings: Mapping[str, Any]
    left_out: tuple[LeftOut, ...] = ()
    pretrained_on: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        count = len(self.paths)
        self._check_types()
        if self.features.ndim != 2 or len(self.features) != count or self.labels.shape != (count,):
            raise InputError(
                f"features {list(self.features.shape)} and labels {list(self.labels.shape)} "
                f"do not fit {count} videos"
            )
        if self.pretrained_on is not None and self.pretrained_on.shape != (count,):
            raise InputError(f"what was pretrained on does not fit {count} videos")
        if len(self.groups) != count:
            raise InputError(f"{len(self.groups)} groups do not fit {count} videos")
        if count and not -1 <= self.labels.min() <= self.labels.max() < len(self.class_names):
            raise InputError(f"labels lie outside the {len(self.class_names)} classes")
        for name, rows in self.splits.items():
            if len(rows) and not 0 <= rows.min() <= rows.max() < count:
                raise InputError(f"split {name!r} names rows outside the {count} videos")
        bad = np.flatnonzero(~np.isfinite(self.features).all(axis=1))
        if len(bad):
            raise InputError(
                f"features of {len(bad)} of {count} videos are not finite, first "
                f"{self.paths[bad[0]]}: the network has diverged; take an earlier checkpoint"
            )

    def _check_types(self) -> None:
        arrays: dict[str, tuple[NDArray[Any], str]]
        arrays = {"features": (self.features, "f4"), "labels": (self.labels, "i4")}
        arrays |= {f"split {name!r}": (rows, "i8") for name, rows in self.splits.items()}
        if self.pretrained_on is not None:
            arrays["pretrained_on"] = (self.pretrained_on, "?")
        for name, (array, dtype) in arrays.items():
            if array.dtype != np.dtype(dtype) or array.ndim != 1 + (name == "features"):
                raise InputError(f"{name}: must be numbers of type {np.dtype(dtype).name}")
        texts = (self.weights_sha256, self.data_fingerprint)
        if not all(isinstance(text, str) for text in texts) or not isinstance(self.settings, dict):
            raise InputError("the origin of the features must be text and a table of settings")

    def __len__(self) -> int:
        return len(self.paths)

    def __repr__(self) -> str:
        splits = ", ".join(f"{name} {len(rows):,}" for name, rows in self.splits.items()) or "none"
        videos, width = self.features.shape
        return f"FeatureSet({videos:,} videos x {width:,} features, splits: {splits})"

    @property
    def num_seen(self) -> int:
        """Videos that the network was pretrained on, as far as is known."""
        return 0 if self.pretrained_on is None else int(self.pretrained_on.sum())

    def split(self, name: str | None) -> NDArray[np.int64]:
        """Return the row numbers of a split; None: all rows.

        Raises:
            InputError: There is no such split.
        """
        if name is None:
            return np.arange(len(self), dtype=np.int64)
        if name not in self.splits:
            known = ", ".join(sorted(self.splits)) or "none"
            raise InputError(f"no split {name!r} among these features; splits: {known}")
        return self.splits[name]

    def take(self, rows: NDArray[np.int64]) -> "FeatureSet":
        """Return some of the rows, without their splits."""
        return replace(
            self,
            features=self.features[rows],
            paths=tuple(self.paths[row] for row in rows),
            labels=self.labels[rows],
            groups=tuple(self.groups[row] for row in rows),
            splits={},
            pretrained_on=None if self.pretrained_on is None else self.pretrained_on[rows],
        )

    def part(self, name: str | None) -> "FeatureSet":
        """Return the videos of a split, and what is or may be missing there; None: all videos.

        Raises:
            InputError: No such split.
        """
        missing = (v for v in self.left_out if name is None or not v.splits or name in v.splits)
        return replace(self.take(self.split(name)), left_out=tuple(missing))

    def save(self, path: Path) -> None:
        """Write a features file.

        Raises:
            FailureError: The disk is full or the folder cannot be written.
        """
        _FEATURES.write(path, lambda file: _fill(file, self))

    @classmethod
    def load(cls, path: Path | str) -> "FeatureSet":
        """Read a file that `save` wrote, checking all of it.

        Raises:
            InputError: Missing, damaged, or not a file of features.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"{path}: no such features file; `fastdual embed` writes one")
        return _FEATURES.read(path, lambda file, tables: cls(**_decode(file, tables)))


def _fill(file: Any, feature_set: FeatureSet) -> None:
    file.attrs["checkpoint"] = feature_set.weights_sha256
    file.attrs["data_fingerprint"] = feature_set.data_fingerprint
    file.attrs["settings"] = json.dumps(dict(feature_set.settings))
    file["features"] = feature_set.features
    file["labels"] = feature_set.labels
    if feature_set.pretrained_on is not None:
        file["pretrained_on"] = feature_set.pretrained_on.astype(np.uint8)
    write_texts(file, "paths", feature_set.paths)
    write_texts(file, "class_names", feature_set.class_names)
    write_texts(file, "groups", feature_set.groups)
    # Split names may hold a slash, which HDF5 takes for a folder: names and rows are stored apart.
    names = tuple(sorted(feature_set.splits))
    write_texts(file, "split_names", names)
    for number, name in enumerate(names):
        file[f"splits/{number}"] = feature_set.splits[name]
    write_texts(file, "left_out", [json.dumps(asdict(v)) for v in feature_set.left_out])


def _decode(file: Any, tables: Tables) -> dict[str, Any]:
    splits = {
        name: tables.array(f"splits/{number}")
        for number, name in enumerate(tables.texts("split_names"))
    }
    has_seen = "pretrained_on" in file  # files of earlier versions do not say
    missing = [json.loads(text) for text in tables.texts("left_out")]
    return {
        "features": tables.array("features"),
        "labels": tables.array("labels"),
        "paths": tables.texts("paths"),
        "class_names": tables.texts("class_names"),
        "groups": tables.texts("groups"),
        "splits": splits,
        "weights_sha256": file.attrs["checkpoint"],
        "data_fingerprint": file.attrs["data_fingerprint"],
        "settings": json.loads(file.attrs["settings"]),
        "pretrained_on": tables.array("pretrained_on").astype(np.bool_) if has_seen else None,
        "left_out": tuple(
            LeftOut(video["path"], video["reason"], tuple(video["splits"])) for video in missing
        ),
    }
