"""Overlaps of splits: planted copies, copies encoded anew, shared groups; no false alarm."""

import csv
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from fastdual.demo.videos import DemoSet, write_demo
from fastdual.errors import FailureError, InputError
from fastdual.evaluate.hygiene import (
    Overlap,
    feature_overlaps,
    index_overlaps,
    settle_overlaps,
)
from fastdual.loaders.index import VideoIndex, build_index
from tests.evaluate.synthetic import drawn_features
from tests.packages import av

pytestmark = pytest.mark.needs("av")


def encode_again(source: Path, target: Path, *, size: int, crf: int) -> None:
    """Another size and quality of the same video."""
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        video = reader.streams.video[0]
        stream = writer.add_stream("libx264", rate=25, options={"crf": str(crf)})
        stream.width, stream.height, stream.pix_fmt = size * 4 // 3 // 2 * 2, size, "yuv420p"
        for number, frame in enumerate(reader.decode(video)):
            picture = frame.reformat(width=stream.width, height=stream.height, format="yuv420p")
            picture.pts, picture.time_base = number, Fraction(1, 25)
            writer.mux(stream.encode(picture))
        writer.mux(stream.encode())


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> VideoIndex:
    folder = tmp_path_factory.mktemp("hygiene")
    for _ in write_demo(folder / "demo", DemoSet(train_scenes=1, test_scenes=1, frames=40)):
        pass
    lines = ["path,label,group,split"]
    videos = sorted((folder / "demo").glob("*/scene*"))
    assert len(videos) == 16
    for number, video in enumerate(videos):
        split = "a" if number < 8 else "b"
        lines.append(f"{video.relative_to(folder)},x,g{number},{split}")
    shutil.copy(videos[0], folder / f"copy{videos[0].suffix}")
    encode_again(videos[1], folder / "again.mp4", size=96, crf=32)
    lines += [f"copy{videos[0].suffix},x,g100,b", "again.mp4,x,g101,b"]
    lines.append(f"{videos[8].relative_to(folder)},x,g8,other/c")
    (folder / "set.csv").write_text("\n".join(lines))
    return build_index(folder / "set.csv", folder / "set.h5", num_workers=1)


def test_planted_copies_are_found_and_nothing_else(index: VideoIndex) -> None:
    first, second = index.paths[index.split("a")[0]], index.paths[index.split("a")[1]]
    found = index_overlaps(index, "a", "b", num_workers=1)
    assert set(found) == {
        Overlap("same bytes", first, f"copy{Path(first).suffix}"),
        Overlap("near-identical", second, "again.mp4"),
    }


def test_shared_videos_are_reported_once(index: VideoIndex) -> None:
    path = index.paths[index.split("other/c")[0]]
    assert index_overlaps(index, "b", "other/c", num_workers=1) == [
        Overlap("same video", path, path)
    ]


def test_shared_groups_and_equal_features_are_found() -> None:
    train, test = drawn_features(seed=0), drawn_features(seed=1)
    assert feature_overlaps(train, test) == []
    test.features[5] = train.features[7]
    assert feature_overlaps(train, test) == [Overlap("same features", "0/v7.mp4", "1/v5.mp4")]
    mixed = train.take(np.arange(0, 48, 2)), train.take(np.arange(1, 48, 4))
    assert feature_overlaps(*mixed) == []
    clash = feature_overlaps(train.take(np.arange(0, 4)), train.take(np.arange(4, 8)))
    assert [o.kind for o in clash] == ["same group"] * 4
    assert clash[0] == Overlap("same group", "0/v0.mp4", "0/v4.mp4")


def test_overlaps_are_refused_unless_allowed() -> None:
    overlaps = [Overlap("same bytes", f"a{i}", f"b{i}") for i in range(7)]
    with pytest.raises(InputError, match=r"in 7 pairs.*same bytes: a0 and b0;.*and 2 more"):
        settle_overlaps([overlaps], allowed=False)
    (found,) = settle_overlaps([overlaps], allowed=True)
    assert found[6] == {
        "kind": "same bytes",
        "train": "a6",
        "test": "b6",
    }
    assert settle_overlaps([[], []], allowed=False) == [[], []]


def test_every_pair_is_listed_in_a_file(tmp_path: Path) -> None:
    overlaps = [Overlap("same bytes", f"a,{i}", f"ü{i}") for i in range(7)]
    listing = tmp_path / "pairs.csv"
    with pytest.raises(InputError, match=r"and 2 more.*all are in .*pairs\.csv, --allow-overlap"):
        settle_overlaps([overlaps], allowed=False, listing=listing)
    with open(listing, newline="") as file:
        rows = [Overlap(**row) for row in csv.DictReader(file)]  # type: ignore[arg-type]
    assert rows == overlaps
    with pytest.raises(FailureError, match="could not be written"):
        settle_overlaps([overlaps], allowed=True, listing=listing / "pairs.csv")


def test_a_video_is_paired_with_every_copy_of_it() -> None:
    train, test = drawn_features(seed=0), drawn_features(seed=1)
    train.features[9] = train.features[7]
    test.features[[5, 6]] = train.features[7]
    pairs = [(overlap.train, overlap.test) for overlap in feature_overlaps(train, test)]
    assert pairs == [(f"0/v{a}.mp4", f"1/v{b}.mp4") for b in (5, 6) for a in (7, 9)]
