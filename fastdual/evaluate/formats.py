"""Features in the formats of other programs: arrays of numpy, a table of text, Parquet."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdual.errors import InputError
from fastdual.evaluate.features import FeatureSet
from fastdual.loaders.files import write


def check_format(path: Path) -> None:
    """Refuse a file whose format is unknown, or cannot be written here, before the work.

    Raises:
        InputError: Names the formats, or what to install.
    """
    if path.suffix not in _WRITERS:
        raise InputError(f"{path}: features are written as {', '.join(_WRITERS)}; choose an ending")
    if path.suffix == ".parquet":
        _pyarrow(path)


def save_features(features: FeatureSet, path: Path) -> None:
    """Write features in the format that the ending of the file names.

    `.h5` is the format that fastdual reads again, with everything that is known of the videos. The
    others hold one row per video: path, label (the class's name), group, split, and the features
    (`.npz`: arrays of these names; `.csv`, `.parquet`: columns f0, f1, ...).

    Args:
        features: Of N videos.
        path: The file; its ending is .h5, .hdf5, .npz, .csv or .parquet.

    Raises:
        InputError: Another ending, or pyarrow is missing.
        FailureError: The file cannot be written.
    """
    check_format(path)
    _WRITERS[path.suffix](features, path)


def _columns(features: FeatureSet) -> dict[str, NDArray[Any]]:
    """Return path, label, group and split of each video as texts, [N] each.

    A video that lies in several splits has their names joined by spaces.
    """
    names = (*features.class_names, "")  # -1, no class, is the last one
    splits: list[list[str]] = [[] for _ in range(len(features))]
    for name in sorted(features.splits):
        for row in features.splits[name].tolist():
            splits[row].append(name)
    texts = {
        "path": features.paths,
        "label": [names[label] for label in features.labels],
        "group": features.groups,
        "split": [" ".join(of) for of in splits],
    }
    return {name: np.array(column, dtype=np.str_) for name, column in texts.items()}


def _write_npz(features: FeatureSet, path: Path) -> None:
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, features=features.features, **_columns(features))
    write(path, file.getvalue(), "the features")


def _write_csv(features: FeatureSet, path: Path) -> None:
    file, columns = io.StringIO(), _columns(features)
    writer = csv.writer(file, lineterminator="\n")
    width = features.features.shape[1]
    writer.writerow([*columns, *(f"f{number}" for number in range(width))])
    # A number's text is the shortest that reads back as the same float32.
    for row, values in zip(zip(*columns.values(), strict=True), features.features, strict=True):
        writer.writerow([*row, *map(str, values)])
    write(path, file.getvalue(), "the features")


def _write_parquet(features: FeatureSet, path: Path) -> None:
    pyarrow = _pyarrow(path)
    numbers = {f"f{number}": column for number, column in enumerate(features.features.T)}
    # Parquet's texts are UTF-8; a file name need not be.
    texts = {
        name: [text.encode("utf-8", "backslashreplace").decode() for text in column]
        for name, column in _columns(features).items()
    }
    table = pyarrow.table({**texts, **numbers})
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file)
    write(path, file.getvalue(), "the features")


def _pyarrow(path: Path) -> Any:
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise InputError(
            f"{path}: Parquet needs pyarrow, which is not installed: run pip install pyarrow, or "
            "write .npz or .csv"
        ) from error
    return pyarrow


_WRITERS: dict[str, Callable[[FeatureSet, Path], None]] = {
    ".h5": FeatureSet.save,
    ".hdf5": FeatureSet.save,
    ".npz": _write_npz,
    ".csv": _write_csv,
    ".parquet": _write_parquet,
}
