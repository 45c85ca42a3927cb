"""The features file: what goes in comes out, and what is damaged is refused in one line."""

import os
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from fastdual.errors import FailureError, InputError
from fastdual.evaluate.features import FeatureSet, LeftOut, is_features_file


def feature_set(count: int = 6) -> FeatureSet:
    rng = np.random.default_rng(0)
    return FeatureSet(
        features=rng.standard_normal((count, 5), dtype=np.float32),
        paths=tuple(f"a/v{i}.mp4" for i in range(count)),
        labels=np.arange(count, dtype=np.int32) % 2,
        class_names=("run", "wave"),
        groups=tuple(f"film{i // 2}" for i in range(count)),
        splits={"train": np.arange(count - count // 3), "ucf101-1/test": np.arange(count)[-2:]},
        weights_sha256="ab" * 32,
        data_fingerprint="cd" * 32,
        settings={"clips_per_video": 10, "frame_stride": 4},
        left_out=(
            LeftOut("a/ü.mp4", "could not be decoded", ("train",)),
            LeftOut("b.mp4", "in the index's quarantine: no stream", ()),
        ),
        pretrained_on=np.arange(count) < 2,
    )


def test_round_trip_is_exact(tmp_path: Path) -> None:
    made = replace(feature_set(), paths=(os.fsdecode(b"\xff.mp4"), "ü ", *"bcde"))
    made.save(tmp_path / "f.h5")
    read = FeatureSet.load(tmp_path / "f.h5")
    assert np.array_equal(read.features, made.features)
    assert read.features.dtype == np.float32
    assert np.array_equal(read.labels, made.labels)
    assert read.splits.keys() == made.splits.keys()
    for name in made.splits:
        assert np.array_equal(read.splits[name], made.splits[name])
    for name in (
        "paths",
        "class_names",
        "groups",
        "weights_sha256",
        "data_fingerprint",
        "settings",
    ):
        assert getattr(read, name) == getattr(made, name)
    assert read.left_out == made.left_out
    assert np.array_equal(read.pretrained_on, made.pretrained_on) and read.num_seen == 2
    assert read.part("ucf101-1/test").num_seen == 0
    assert is_features_file(tmp_path / "f.h5")
    assert os.listdir(tmp_path) == ["f.h5"]


def test_missing_videos_of_a_split_are_its_own_and_those_that_may_be() -> None:
    whole = feature_set()
    assert whole.part("train").left_out == whole.part(None).left_out == whole.left_out
    assert whole.part("ucf101-1/test").left_out == whole.left_out[1:]
    assert whole.part("train").splits == {}


def test_empty_set_without_classes_round_trips(tmp_path: Path) -> None:
    empty = replace(feature_set(6), splits={}, class_names=(), labels=np.full(6, -1, np.int32))
    empty.save(tmp_path / "f.h5")
    assert FeatureSet.load(tmp_path / "f.h5").class_names == ()


def test_nan_features_name_the_video() -> None:
    features = feature_set().features.copy()
    features[3, 1] = np.nan
    features[5, 0] = np.inf
    with pytest.raises(InputError, match=r"features of 2 of 6 videos are not finite, first a/v3"):
        replace(feature_set(), features=features)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.array([0, 1, 2, 0, 1, 0], np.int32)}, "outside the 2 classes"),
        ({"labels": np.zeros(5, np.int32)}, r"labels \[5\] do not fit 6 videos"),
        ({"groups": ("a",)}, "1 groups do not fit 6 videos"),
        ({"splits": {"x": np.array([6])}}, "split 'x' names rows outside the 6 videos"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(feature_set(), **change)  # type: ignore[arg-type]


def test_missing_split_lists_the_others() -> None:
    with pytest.raises(InputError, match="no split 'val' among these features; splits: train, ucf"):
        feature_set().split("val")


def test_every_cut_and_every_flipped_byte_is_refused_in_one_line(tmp_path: Path) -> None:
    feature_set().save(tmp_path / "whole.h5")
    content = bytearray((tmp_path / "whole.h5").read_bytes())
    path = tmp_path / "bad.h5"
    damaged = [content[:length] for length in (0, 1, 30, 90, 511, 512, 600, len(content) - 1)]
    # The block before the HDF5 part is padded; a flip in the padding does no harm.
    used = len(content[:512].rstrip(b"\0"))
    for position in [*range(0, used, 5), *range(512, len(content), 97)]:
        flipped = content.copy()
        flipped[position] ^= 0xFF
        damaged.append(flipped)
    for bad in damaged:
        path.write_bytes(bad)
        with pytest.raises(InputError) as caught:
            FeatureSet.load(path)
        assert str(caught.value).startswith((f"the features file {path} ", f"{path} is not "))
        assert "\n" not in str(caught.value)


def test_foreign_files_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such features file"):
        FeatureSet.load(tmp_path / "none.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(InputError, match="is not a features file of fastdual; make one with"):
        FeatureSet.load(tmp_path / "other.h5")
    assert not is_features_file(tmp_path / "other.h5")
    assert not is_features_file(tmp_path)


def test_newer_format_is_refused(tmp_path: Path) -> None:
    feature_set().save(tmp_path / "f.h5")
    content = (tmp_path / "f.h5").read_bytes()
    (tmp_path / "f.h5").write_bytes(content.replace(b"features 3\n", b"features 4\n", 1))
    with pytest.raises(InputError, match="has format 4, this fastdual reads 3: embed the"):
        FeatureSet.load(tmp_path / "f.h5")


def test_any_hdf5_reader_opens_the_file(tmp_path: Path) -> None:
    feature_set().save(tmp_path / "f.h5")
    with h5py.File(tmp_path / "f.h5", "r") as file:
        assert file["features"].shape == (6, 5)


def test_full_disk_leaves_nothing_behind() -> None:
    with pytest.raises(FailureError, match="/dev/full.*could not be written"):
        feature_set().save(Path("/dev/full/f.h5"))
