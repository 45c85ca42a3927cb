"""Opening what the user names: an index that moved, a folder; verifying and describing it."""

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fastdual.errors import InputError
from fastdual.loaders.index import (
    VideoIndex,
    build_index,
    open_index,
    save_index,
    summary,
    verify_index,
)
from fastdual.loaders.index.paths import cache_folder
from tests.loaders.clips import encode


def test_index_and_videos_may_move_together(index: VideoIndex, tmp_path: Path) -> None:
    new = tmp_path / "new"
    new.mkdir()
    shutil.move(tmp_path / "videos", new / "videos")
    shutil.move(tmp_path / "x.h5", new / "x.h5")
    moved = open_index(new / "x.h5")
    assert moved.root == new / "videos" and moved.path(0).is_file()


def test_the_index_alone_may_move(index: VideoIndex, videos: Path, tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    shutil.move(tmp_path / "x.h5", tmp_path / "a" / "b" / "x.h5")
    assert open_index(tmp_path / "a" / "b" / "x.h5").root == videos


def test_videos_that_moved_are_named_with_the_remedy(
    index: VideoIndex, videos: Path, tmp_path: Path
) -> None:
    shutil.move(videos, tmp_path / "gone")
    with pytest.raises(InputError, match="none of the 6 videos.*run/0.mp4.*--root"):
        open_index(tmp_path / "x.h5")
    assert open_index(tmp_path / "x.h5", root=tmp_path / "gone").path(0).is_file()


def test_videos_that_changed_are_left_out(index: VideoIndex, videos: Path, tmp_path: Path) -> None:
    encode(videos / "walk" / "1.avi", 3, codec="mpeg4")
    opened = open_index(tmp_path / "x.h5")
    assert len(opened) == 5
    assert opened.quarantine[-1] == ("walk/1.avi", "the file was changed after it was indexed")


def test_a_folder_is_indexed_once_and_kept_up_to_date(videos: Path, tmp_path: Path) -> None:
    first = open_index(videos)
    cached = list((tmp_path / "cache" / "fastdual" / "indexes").glob("*.h5"))
    assert len(cached) == 1
    planted = dataclasses.replace(first, num_frames=first.num_frames + 50)
    save_index(planted, cached[0])
    encode(videos / "run" / "new.mp4", 4)
    second = open_index(videos)
    assert second.num_frames.tolist() == [55, 56, 57, 4, 58, 59, 60]
    assert list(videos.rglob("*.h5")) == []


def test_a_folder_named_in_other_ways_is_indexed_once(videos: Path, tmp_path: Path) -> None:
    first = open_index(videos)
    (cached,) = (tmp_path / "cache" / "fastdual" / "indexes").glob("*.h5")
    save_index(dataclasses.replace(first, num_frames=first.num_frames + 50), cached)
    (tmp_path / "link").symlink_to(videos)
    for way in (videos / "run" / "..", tmp_path / "link"):
        assert open_index(way).num_frames.tolist() == (first.num_frames + 50).tolist()


def test_a_home_that_cannot_be_written_does_not_stop_us(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert len(open_index(videos)) == 6


def test_processes_that_open_a_folder_together_agree(videos: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from fastdual.loaders.index import open_index\n"
        "print(open_index(Path(sys.argv[1])).fingerprint)"
    )
    command = [sys.executable, "-c", script, str(videos)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    results = [process.communicate(timeout=120)[0] for process in processes]
    assert results[0] and len(set(results)) == 1


def test_opening_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist: name an index, a pack or a folder"):
        open_index(tmp_path / "absent")


def test_verify_finds_what_is_not_as_the_index_says(index: VideoIndex, videos: Path) -> None:
    assert verify_index(index) == ()
    lie = index.num_frames.copy()
    lie[2] = 70
    (videos / "walk" / "0.avi").write_bytes(b"garbage")
    (videos / "walk" / "1.avi").unlink()
    wrong = dict(verify_index(dataclasses.replace(index, num_frames=lie)))
    assert wrong == {
        "run/2.mp4": "has 7 frames, the index says 70",
        "walk/0.avi": "the file was changed after it was indexed",
        "walk/1.avi": "the file is missing",
    }


@pytest.mark.parametrize(
    ("field", "change", "words"),
    [
        ("fps", lambda values: values + 1, "has fps"),
        ("duration_seconds", lambda values: values * 1.01, "has duration seconds"),
        ("codecs", lambda values: ("vp9",) * len(values), "has codec"),
        ("pixel_formats", lambda values: ("gray",) * len(values), "has pixel format"),
        ("num_packets", lambda values: values + 1, "has num packets"),
        ("first_pts", lambda values: values + 1, "has first pts"),
        ("keyframe_pts", lambda values: values + 1, "keyframes with other pts"),
        ("keyframe_bytes", lambda values: values + 1, "keyframes with other offsets"),
    ],
)
def test_verify_compares_every_fact(tmp_path: Path, field: str, change: Any, words: str) -> None:
    encode(tmp_path / "v" / "a.mp4", 24, gop=6)
    index = build_index(tmp_path / "v", tmp_path / "x.h5", num_workers=1)
    assert verify_index(index, num_workers=1) == ()
    lie = dataclasses.replace(index, **{field: change(getattr(index, field))})
    ((path, reason),) = verify_index(lie, num_workers=1)
    assert path == "a.mp4" and words in reason


def test_summary_names_what_matters(index: VideoIndex) -> None:
    text = summary(index)
    for line in ("videos      6 under", "frames      45 (5 to 10 per video)", "quarantined 2"):
        assert line in text
    assert "walk/empty.mp4: the file is empty" in text


@pytest.mark.parametrize("kind", ["other owner", "open to others", "link"])
def test_a_folder_for_all_that_somebody_has_prepared_is_not_trusted(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the user's own cache cannot be written, the place has a name that can be guessed."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    folder = tmp_path / f"fastdual-{os.getuid()}"
    (tmp_path / "theirs").mkdir(mode=0o700)
    if kind == "link":
        folder.symlink_to("theirs")
    else:
        folder.mkdir(mode=0o777 if kind == "open to others" else 0o700)
        folder.chmod(0o777 if kind == "open to others" else 0o700)
    if kind == "other owner":
        me = os.getuid()
        monkeypatch.setattr("os.getuid", lambda: me + 1)
        folder.rename(tmp_path / f"fastdual-{me + 1}")
    with pytest.raises(InputError, match="not a folder of this user alone"):
        cache_folder("indexes")
    assert list((tmp_path / "theirs").iterdir()) == []
