"""Features of a set of videos and the HDF5 file that keeps them.

Shapes: N videos, F features.
"""

import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from fastdual.checkpoint import write_atomically
from fastdual.loaders.errors import FailureError, InputError

FORMAT = "fastdual features"
FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class FeatureSet:
    """One feature vector a video, and all that retrieval and plots need to know of the videos.

    Attributes:
        features: [N, F] pooled backbone features, averaged over a video's clips.
        paths: the videos, relative to the root of their index.
        labels: [N] numbers of classes, -1 where a video has none.
        class_names: names of the classes.
        splits: split name -> sorted row numbers.
        checkpoint: sha256 of the checkpoint file, or "random weights, seed N".
        data_fingerprint: fingerprint of the index.
        settings: how the features were made (backbone, clip size, stride, clips a video).
    """

    features: NDArray[np.float32]
    paths: tuple[str, ...]
    labels: NDArray[np.int32]
    class_names: tuple[str, ...]
    splits: Mapping[str, NDArray[np.int64]]
    checkpoint: str
    data_fingerprint: str
    settings: Mapping[str, Any]

    def __post_init__(self) -> None:
        count = len(self.paths)
        if self.features.ndim != 2 or len(self.features) != count or self.labels.shape != (count,):
            raise InputError(
                f"features {list(self.features.shape)} and labels {list(self.labels.shape)} "
                f"do not fit {count} videos"
            )
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

    def __len__(self) -> int:
        return len(self.paths)

    def split(self, name: str | None) -> NDArray[np.int64]:
        """Row numbers of a split; None: all rows.

        Raises:
            InputError: there is no such split.
        """
        if name is None:
            return np.arange(len(self), dtype=np.int64)
        if name not in self.splits:
            known = ", ".join(sorted(self.splits)) or "none"
            raise InputError(f"no split {name!r} among these features; splits: {known}")
        return self.splits[name]

    def save(self, path: Path) -> None:
        """Write the file whole or not at all.

        Raises:
            FailureError: the disk is full or the folder cannot be written.
        """
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as file:
            file.attrs["format"] = FORMAT
            file.attrs["format_version"] = FORMAT_VERSION
            file.attrs["checkpoint"] = self.checkpoint
            file.attrs["data_fingerprint"] = self.data_fingerprint
            file.attrs["settings"] = json.dumps(dict(self.settings))
            file["features"] = self.features
            file["labels"] = self.labels
            _write_texts(file, "paths", self.paths)
            _write_texts(file, "class_names", self.class_names)
            # Split names may hold a slash, which HDF5 takes for a folder: names and rows lie apart.
            names = tuple(sorted(self.splits))
            _write_texts(file, "split_names", names)
            for number, name in enumerate(names):
                file[f"splits/{number}"] = self.splits[name]
        try:
            write_atomically(path, buffer.getbuffer())
        except OSError as error:
            raise FailureError(
                f"{path}: the features could not be written: {error.strerror}"
            ) from error

    @classmethod
    def load(cls, path: Path) -> "FeatureSet":
        """Read a file that `save` wrote, checking all of it.

        Raises:
            InputError: missing, damaged, or not a file of features.
        """
        if not path.is_file():
            raise InputError(f"{path}: no such features file; `fastdual embed` writes one")
        try:
            with h5py.File(path, "r") as file:
                if _text(file.attrs.get("format", "")) != FORMAT:
                    raise InputError("an HDF5 file, but not one that `fastdual embed` wrote")
                return cls(**_read(file))
        # h5py raises whatever its parts raise on a damaged file.
        except Exception as error:
            reason = str(error).split("\n")[0] or type(error).__name__
            known = isinstance(error, InputError)
            what = reason if known else f"damaged, or not a features file ({reason})"
            raise InputError(f"{path}: {what}") from None


def is_features_file(path: Path) -> bool:
    """Whether a path is a features file, damaged or not, rather than an index or a checkpoint."""
    if not path.is_file() or not h5py.is_hdf5(path):
        return False
    try:
        with h5py.File(path, "r") as file:
            return _text(file.attrs.get("format", "")) == FORMAT
    except OSError:
        return False


def _read(file: Any) -> dict[str, Any]:
    version = int(file.attrs["format_version"])
    if version != FORMAT_VERSION:
        raise InputError(f"features format {version}, this fastdual reads {FORMAT_VERSION}")
    splits = {
        name: _read_array(file, f"splits/{number}").astype(np.int64)
        for number, name in enumerate(_read_texts(file, "split_names"))
    }
    return {
        "features": _read_array(file, "features").astype(np.float32),
        "paths": _read_texts(file, "paths"),
        "labels": _read_array(file, "labels").astype(np.int32),
        "class_names": _read_texts(file, "class_names"),
        "splits": splits,
        "checkpoint": _text(file.attrs["checkpoint"]),
        "data_fingerprint": _text(file.attrs["data_fingerprint"]),
        "settings": json.loads(_text(file.attrs["settings"])),
    }


def _write_texts(file: Any, name: str, texts: tuple[str, ...]) -> None:
    # As bytes: a file name need not be UTF-8.
    file.create_dataset(name, data=[os.fsencode(t) for t in texts], dtype=h5py.string_dtype())


def _read_array(file: Any, name: str) -> NDArray[Any]:
    dataset = file[name]
    # A damaged or hostile header may not make us allocate more than the file holds.
    if dataset.id.get_storage_size() != dataset.nbytes:
        raise InputError(f"{name} claims {dataset.nbytes} bytes that the file does not hold")
    array: NDArray[Any] = dataset[:]
    return array


def _read_texts(file: Any, name: str) -> tuple[str, ...]:
    if file[name].id.get_storage_size() != 16 * len(file[name]):  # 16: a reference to each text
        raise InputError(f"{name} claims {len(file[name])} texts that the file does not hold")
    return tuple(os.fsdecode(text) for text in file[name][:])


def _text(value: Any) -> str:
    return os.fsdecode(value) if isinstance(value, bytes) else str(value)
