"""Features written for other programs, read back as those programs read them."""

import csv
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fastdual
from fastdual.errors import InputError
from fastdual.evaluate.features import FeatureSet
from fastdual.evaluate.formats import save_features
from tests.evaluate.synthetic import drawn_features


@pytest.fixture
def features() -> FeatureSet:
    """Two splits that overlap, a video without class, names that need quoting, one not UTF-8."""
    drawn = drawn_features(seed=1, classes=2, each=3)
    return replace(
        drawn,
        paths=("a,b.mp4", 'quo"te.mp4', "new\nline.mp4", "caf\udce9.mp4", "e.mp4", "f.mp4"),
        labels=np.array([0, 0, -1, 1, 1, 1], np.int32),
        splits={"x/train": np.array([0, 1]), "x/test": np.array([1, 4])},
    )


LABELS = ["class0", "class0", "", "class1", "class1", "class1"]
SPLITS = ["x/train", "x/test x/train", "", "", "x/test", ""]


def test_npz_holds_arrays_that_need_no_pickle(features: FeatureSet, tmp_path: Path) -> None:
    save_features(features, tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz", allow_pickle=False) as read:
        assert np.array_equal(read["features"], features.features)
        assert read["features"].dtype == np.float32
        assert tuple(read["path"]) == features.paths and tuple(read["group"]) == features.groups
        assert list(read["label"]) == LABELS and list(read["split"]) == SPLITS


def test_csv_reads_back_as_the_same_numbers(features: FeatureSet, tmp_path: Path) -> None:
    save_features(features, tmp_path / "x.csv")
    with open(tmp_path / "x.csv", errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == list(features.paths)
    assert [row["label"] for row in rows] == LABELS and [row["split"] for row in rows] == SPLITS
    width = features.features.shape[1]
    read = np.array([[row[f"f{n}"] for n in range(width)] for row in rows]).astype(np.float32)
    assert np.array_equal(read, features.features)


def test_parquet_reads_back_as_the_same_numbers(features: FeatureSet, tmp_path: Path) -> None:
    import pyarrow.parquet

    save_features(features, tmp_path / "x.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "x.parquet")
    assert table.column_names[:5] == ["path", "label", "group", "split", "f0"]
    assert table["path"].to_pylist() == [*features.paths[:3], "caf\\udce9.mp4", "e.mp4", "f.mp4"]
    read = np.stack([table[f"f{n}"].to_numpy() for n in range(features.features.shape[1])], axis=1)
    assert read.dtype == np.float32 and np.array_equal(read, features.features)


def test_the_own_format_is_read_in_one_line(features: FeatureSet, tmp_path: Path) -> None:
    save_features(features, tmp_path / "x.hdf5")
    assert fastdual.FeatureSet.load(str(tmp_path / "x.hdf5")).paths == features.paths


def test_what_is_missing_for_parquet_is_named(
    features: FeatureSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"x\.parquet: Parquet needs pyarrow.*\.npz or \.csv"):
        save_features(features, tmp_path / "x.parquet")
    assert not list(tmp_path.iterdir())
