"""Folders that are splits, classes or both; those that can be read in two ways are refused."""

import logging
from pathlib import Path

import pytest

from fastdual.errors import InputError
from fastdual.loaders.index.sources import list_videos

# Files, and what is to be made of them: (path, label, split).
UNDERSTOOD = {
    "capitals": [("Test/run/b.mp4", "run", "test"), ("Train/run/a.mp4", "run", "train")],
    "shouted": [("TEST/run/b.mp4", "run", "test"), ("TRAIN/run/a.mp4", "run", "train")],
    "long names": [
        ("testing/run/b.mp4", "run", "test"),
        ("training/run/a.mp4", "run", "train"),
        ("validation/run/c.mp4", "run", "validation"),
    ],
    "below the classes": [
        ("run/Test/b.mp4", "run", "test"),
        ("run/Train/a.mp4", "run", "train"),
        ("walk/Train/c.mp4", "walk", "train"),
    ],
    "below a name for all": [
        ("set/test/run/b.mp4", "run", "test"),
        ("set/train/walk/a.mp4", "walk", "train"),
    ],
    "one class": [("run/test/b.mp4", "run", "test"), ("run/train/a.mp4", "run", "train")],
    "a train among vehicles": [("bus/a.mp4", "bus", ""), ("train/b.mp4", "train", "")],
    "no classes": [("test/b.mp4", None, "test"), ("train/a.mp4", None, "train")],
    "one split": [("train/run/a.mp4", "run", "train")],
}
REFUSED = {
    "others beside": ["train/run/a.mp4", "test/run/b.mp4", "extra/run/c.mp4"],
    "others beside, capitals": ["Train/run/a.mp4", "Test/run/b.mp4", "extra/c.mp4"],
    "one split with classes": ["train/run/a.mp4", "extra/c.mp4"],
    "in one class alone": ["run/train/a.mp4", "run/test/b.mp4", "walk/c.mp4"],
    "beside videos of the class": ["run/train/a.mp4", "run/test/b.mp4", "run/c.mp4"],
}


def write(root: Path, paths: list[str]) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_layouts_that_are_understood(name: str, tmp_path: Path) -> None:
    write(tmp_path, [path for path, *_ in UNDERSTOOD[name]])
    entries = list_videos(tmp_path).entries
    assert [(e.path, e.label, "".join(e.splits)) for e in entries] == UNDERSTOOD[name]


@pytest.mark.parametrize("name", REFUSED)
def test_layouts_that_can_be_read_in_two_ways_are_refused(name: str, tmp_path: Path) -> None:
    write(tmp_path, REFUSED[name])
    words = r"[Tt]rain.* look like splits, but .*--kind classes"
    with pytest.raises(InputError, match=words) as got:
        list_videos(tmp_path)
    assert "\n" not in str(got.value)
    labels = {entry.label for entry in list_videos(tmp_path, kind="classes").entries}
    assert labels == {path.partition("/")[0] for path in REFUSED[name]}


def test_a_stray_video_is_named_and_in_no_split(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, ["train/run/a.mp4", "test/run/b.mp4", "intro.mp4"])
    with caplog.at_level(logging.WARNING, "fastdual.loaders"):
        listing = list_videos(tmp_path)
    assert "intro.mp4 lies beside the splits" in caplog.text
    assert listing.class_names == ("run",)
    assert [(e.path, sorted(e.splits)) for e in listing.entries] == [
        ("intro.mp4", []),
        ("test/run/b.mp4", ["test"]),
        ("train/run/a.mp4", ["train"]),
    ]


def test_a_link_to_a_folder_above_is_not_followed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, ["set/run/a.mp4", "other.mp4"])
    (tmp_path / "set" / "run" / "root").symlink_to("/")
    (tmp_path / "set" / "run" / "up").symlink_to(tmp_path)
    with caplog.at_level(logging.WARNING, "fastdual.loaders"):
        listing = list_videos(tmp_path / "set")
    assert [entry.path for entry in listing.entries] == ["run/a.mp4"]
    assert caplog.text.count("is a link to a folder above") == 2


def test_one_video_is_a_data_set(tmp_path: Path) -> None:
    write(tmp_path, ["set/Film.MP4", "set/other.mp4"])
    listing = list_videos(tmp_path / "set" / "Film.MP4")
    assert [(e.path, e.label) for e in listing.entries] == [("Film.MP4", None)]
    assert listing.root == tmp_path / "set"
