"""The index as a value: its splits, its fingerprint, what it refuses, and its rows."""

import dataclasses
import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastdual.errors import InputError
from fastdual.loaders.index import VideoIndex, build_index
from fastdual.loaders.pack import PackOptions, pack
from tests.loaders.clips import encode


def test_splits(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text(
        "path,label,group,split\nrun/0.mp4,a,g1,train\nrun/2.mp4,b,g2,test\nwalk/0.avi,a,g1,train\n"
    )
    index = build_index(tmp_path / "l.csv", tmp_path / "x.h5", root=videos)
    assert index.split("train").tolist() == [0, 2] and index.split("test").tolist() == [1]
    assert index.split(None).tolist() == [0, 1, 2]
    assert index.groups == ("g1", "g2", "g1") and index.labels.tolist() == [0, 1, 0]
    with pytest.raises(InputError, match="no split 'val'; its splits: test, train"):
        index.split("val")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"paths": ("../a", "b", "c", "d", "e", "f")}, "a path leads out of the root"),
        ({"paths": ("/a", "b", "c", "d", "e", "f")}, "a path leads out of the root"),
        ({"paths": ("a", "b/..", "c", "d", "e", "f")}, "a path leads out of the root"),
        ({"paths": ("", "b", "c", "d", "e", "f")}, "a path leads out of the root"),
        ({"paths": ("a/..\n/b", "..c", "d.", "e", "f", "g\0h")}, "a path holds a zero byte"),
        ({"paths": ("a",)}, "has the wrong shape"),
        ({"num_frames": np.zeros(6, np.int64)}, "a video has no frames"),
        ({"num_frames": np.ones(6, np.int32)}, "num_frames has the wrong shape"),
        ({"labels": np.full(6, 7, np.int32)}, "a label has no class name"),
        ({"rotation": np.full(6, 45, np.int16)}, "a rotation is not a right angle"),
        ({"size": np.full((6, 2), 1 << 20, np.int32)}, "a frame size is absurd"),
        ({"splits": {"train": np.array([0, 6])}}, "the split 'train'"),
        ({"splits": {"train": np.array([1, 0])}}, "the split 'train'"),
        ({"keyframe_offsets": np.array([0, 5, 3, 3, 3, 3, 3])}, "keyframe_offsets are not sorted"),
    ],
)
def test_contents_that_contradict_themselves_are_refused(
    index: VideoIndex, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(index, **change)


def test_the_fingerprint_is_of_the_contents_alone(
    index: VideoIndex, videos: Path, tmp_path: Path
) -> None:
    moved = Path(shutil.move(videos, tmp_path / "elsewhere"))
    again = build_index(moved, tmp_path / "y.h5")
    assert again.fingerprint == index.fingerprint
    encode(moved / "run" / "0.mp4", 9)
    assert build_index(moved, tmp_path / "y.h5").fingerprint != index.fingerprint


def test_an_index_is_made_of_its_videos(index: VideoIndex) -> None:
    made = VideoIndex.of(
        [index.video(number) for number in range(6)],
        root=index.root,
        class_names=index.class_names,
        splits=index.splits,
    )
    assert made.fingerprint == index.fingerprint
    assert made.modified_ns.tolist() == index.modified_ns.tolist()
    video = index.video(2)
    assert (video.path, video.num_frames, video.codec) == ("run/2.mp4", 7, "h264")
    assert (video.size, video.fps, video.rotation) == ((48, 64), (10, 1), 0)
    assert video.sha256 == hashlib.sha256(index.path(2).read_bytes()).digest()
    assert (video.label, video.keyframes.frames.tolist()) == (0, [4])


def test_some_videos_make_an_index_of_their_own(index: VideoIndex) -> None:
    splits = {"train": np.array([0, 2, 5]), "test": np.array([1, 3])}
    part = dataclasses.replace(index, splits=splits).take(np.array([2, 3, 5]))
    assert part.paths == ("run/2.mp4", "walk/0.avi", "walk/2.avi")
    assert {name: rows.tolist() for name, rows in part.splits.items()} == {
        "train": [0, 2],
        "test": [1],
    }
    for row, number in enumerate((2, 3, 5)):
        ours, whole = vars(part.video(row)), vars(index.video(number))
        assert ours.pop("keyframes").to_lists() == whole.pop("keyframes").to_lists()
        assert ours == whole


def test_some_videos_of_a_pack_stay_where_they_are(index: VideoIndex, tmp_path: Path) -> None:
    packed = pack(index, tmp_path / "p.h5", PackOptions(num_workers=1))
    part = packed.take(np.array([1, 4]))
    assert [part.source(0), part.source(1)] == [packed.source(1), packed.source(4)]
