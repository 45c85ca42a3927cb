"""The index: built, stopped, gone on with, written, read, moved, damaged, verified."""

import dataclasses
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from fastdual.errors import FailureError, InputError
from fastdual.loaders.index import (
    VideoIndex,
    build_index,
    load_index,
    open_index,
    save_index,
    summary,
    verify_index,
)
from fastdual.loaders.index import build as index_build
from fastdual.loaders.pack import PackOptions, pack
from tests.loaders.clips import encode, stop_after


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos of two classes, one of them rotated, and two files that cannot be used."""
    root = tmp_path_factory.mktemp("made")
    for number in range(3):
        encode(root / "run" / f"{number}.mp4", 5 + number, gop=4, options={"sc_threshold": "0"})
        encode(root / "walk" / f"{number}.avi", 8 + number, codec="mpeg4")
    encode(root / "run" / "1.mp4", 6, rotation=90)
    (root / "run" / "text.mp4").write_text("not a video")
    (root / "walk" / "empty.mp4").touch()
    return root


@pytest.fixture
def videos(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "videos"))


@pytest.fixture
def index(videos: Path, tmp_path: Path) -> VideoIndex:
    return build_index(videos, tmp_path / "x.h5", num_workers=2)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def values(index: VideoIndex) -> dict[str, Any]:
    """The fields of an index as plain values that compare."""
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(index):
        value = getattr(index, field.name)
        if isinstance(value, np.ndarray):
            value = (str(value.dtype), value.tolist())
        elif field.name == "splits":
            value = {name: part.tolist() for name, part in value.items()}
        plain[field.name] = value
    return plain


def test_the_index_tells_what_is_in_the_folder(index: VideoIndex, videos: Path) -> None:
    assert index.paths == tuple(
        f"{name}/{n}.{kind}" for name, kind in (("run", "mp4"), ("walk", "avi")) for n in range(3)
    )
    assert index.root == videos
    assert index.num_frames.tolist() == [5, 6, 7, 8, 9, 10]
    assert index.fps.tolist() == [[10, 1]] * 6
    assert index.size.tolist() == [[48, 64]] * 6
    assert index.rotation.tolist() == [0, 270, 0, 0, 0, 0]
    assert index.codecs == ("h264",) * 3 + ("mpeg4",) * 3
    assert index.duration_seconds.tolist() == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert index.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert index.class_names == ("run", "walk")
    assert index.quarantine == (
        ("run/text.mp4", "is not a video, or its header is damaged"),
        ("walk/empty.mp4", "the file is empty"),
    )
    table = index.keyframes(2)
    assert table is not None and table.frames.tolist() == [4]
    assert index.keyframes(1) is None
    assert index.path(3) == videos / "walk" / "0.avi"


def test_saving_and_loading_changes_nothing(index: VideoIndex, tmp_path: Path) -> None:
    loaded = load_index(tmp_path / "x.h5")
    assert values(loaded) == values(index)
    assert loaded.fingerprint == index.fingerprint
    save_index(loaded, tmp_path / "y.h5")
    assert (tmp_path / "y.h5").read_bytes() == (tmp_path / "x.h5").read_bytes()
    assert not list(tmp_path.glob("*.partial")) and not list(tmp_path.glob(".x.h5*"))


def test_any_hdf5_tool_can_read_the_file(index: VideoIndex, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5") as file:
        assert file["num_frames"][()].tolist() == index.num_frames.tolist()


def test_the_fingerprint_is_of_the_contents_alone(
    index: VideoIndex, videos: Path, tmp_path: Path
) -> None:
    moved = Path(shutil.move(videos, tmp_path / "elsewhere"))
    again = build_index(moved, tmp_path / "y.h5")
    assert again.fingerprint == index.fingerprint
    encode(moved / "run" / "0.mp4", 9)
    assert build_index(moved, tmp_path / "y.h5").fingerprint != index.fingerprint


def test_file_names_need_not_be_utf8(videos: Path, tmp_path: Path) -> None:
    odd = b"\xff\xfe.mp4".decode(errors="surrogateescape")
    shutil.copy(videos / "run" / "0.mp4", videos / "run" / odd)
    index = build_index(videos, tmp_path / "x.h5")
    assert load_index(tmp_path / "x.h5").paths == index.paths
    assert f"run/{odd}" in index.paths
    summary(index).encode()


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


def test_official_lists_make_an_index(shared_data: Path, tmp_path: Path) -> None:
    names = ["v_ApplyEyeMakeup_g01_c01", "v_ApplyEyeMakeup_g08_c01", "v_YoYo_g25_c05"]
    for name in names:
        folder = tmp_path / "UCF-101" / name.split("_")[1]
        encode(folder / f"{name}.avi", 4, codec="mpeg4")
    lists = shared_data / "splits" / "ucf101"
    index = build_index(tmp_path / "UCF-101", tmp_path / "x.h5", annotations=lists)
    assert [Path(path).stem for path in index.paths] == names
    assert index.groups == ("g01", "g08", "g25") and index.labels.tolist() == [0, 0, 100]
    assert index.split("ucf101-1/train").tolist() == [1, 2]
    assert index.split("ucf101-1/test").tolist() == [0]
    assert len(index.class_names) == 101 and len(index.quarantine) == 13320 - 3
    assert {reason for _, reason in index.quarantine} == {"the file is missing"}
    assert load_index(tmp_path / "x.h5").fingerprint == index.fingerprint


def test_a_shared_group_needs_consent(videos: Path, tmp_path: Path) -> None:
    lines = "path,group,split\nrun/0.mp4,g1,train\nrun/2.mp4,g1,test\n"
    (tmp_path / "l.csv").write_text(lines)
    with pytest.raises(InputError, match="--allow-shared-groups"):
        build_index(tmp_path / "l.csv", tmp_path / "x.h5", root=videos)
    assert not (tmp_path / "x.h5").exists()
    options = {"root": videos, "allow_shared_groups": True}
    assert len(build_index(tmp_path / "l.csv", tmp_path / "x.h5", **options)) == 2  # type: ignore[arg-type]


def test_videos_that_are_listed_but_absent_are_quarantined(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("path\nrun/0.mp4\nrun/absent.mp4\n")
    index = build_index(tmp_path / "l.csv", tmp_path / "x.h5", root=videos)
    assert index.quarantine == (("run/absent.mp4", "the file is missing"),)
    with pytest.raises(InputError, match="none of the 2 videos.*the file is missing.*--root"):
        build_index(tmp_path / "l.csv", tmp_path / "x.h5", root=tmp_path)


def test_no_usable_video_is_an_error_that_gives_a_reason(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "a.mp4").write_text("text")
    with pytest.raises(InputError, match="none of the 1 videos.*a.mp4: is not a video"):
        build_index(tmp_path / "v", tmp_path / "x.h5")


# ---- stopped and gone on with


def test_a_stopped_build_goes_on_where_it_was(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        build_index(videos, tmp_path / "x.h5", progress=stop_after(4))
    assert not (tmp_path / "x.h5").exists()
    partial = tmp_path / "x.h5.partial"
    lines = partial.read_text().splitlines()
    assert len(lines) == 4
    # Findings are taken over as they stand: a planted one shows that the file was not probed again.
    partial.write_text("\n".join(lines).replace('"num_frames": 5', '"num_frames": 55') + '\n{"torn')
    index = build_index(videos, tmp_path / "x.h5")
    assert index.num_frames.tolist() == [55, 6, 7, 8, 9, 10]
    assert not partial.exists()


def test_a_build_that_is_killed_leaves_no_half_written_index(videos: Path, tmp_path: Path) -> None:
    for number in range(30):
        shutil.copy(videos / "run" / "2.mp4", videos / "run" / f"copy{number}.mp4")
    command = [sys.executable, "-m", "fastdual", "index", str(videos), "-o", str(tmp_path / "x.h5")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    partial = tmp_path / "x.h5.partial"
    while not (partial.exists() and partial.read_text().count("\n") >= 3):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "x.h5").exists()
    assert len(build_index(videos, tmp_path / "x.h5")) == 36


def test_building_again_probes_only_what_changed(
    index: VideoIndex, videos: Path, tmp_path: Path
) -> None:
    planted = dataclasses.replace(index, num_frames=index.num_frames + 100)
    save_index(planted, tmp_path / "x.h5")
    encode(videos / "run" / "0.mp4", 3)
    encode(videos / "run" / "9.mp4", 4)
    (videos / "walk" / "2.avi").unlink()
    encode(videos / "walk" / "empty.mp4", 2)
    again = build_index(videos, tmp_path / "x.h5")
    found = dict(zip(again.paths, again.num_frames.tolist(), strict=True))
    assert found == {
        "run/0.mp4": 3,
        "run/1.mp4": 106,
        "run/2.mp4": 107,
        "run/9.mp4": 4,
        "walk/0.avi": 108,
        "walk/1.avi": 109,
        "walk/empty.mp4": 2,
    }
    assert [path for path, _ in again.quarantine] == ["run/text.mp4"]


def test_a_split_of_which_nothing_is_usable_is_told(videos: Path, tmp_path: Path) -> None:
    lines = "path,split\nrun/0.mp4,train\nrun/text.mp4,test\n"
    (videos / "list.csv").write_text(lines)
    index = build_index(videos / "list.csv", tmp_path / "x.h5", num_workers=1)
    assert "split       test: 0\nsplit       train: 1" in summary(index)
    with pytest.raises(InputError, match="the split 'test' has no usable video"):
        load_index(tmp_path / "x.h5").split("test")


@pytest.mark.parametrize("stopped", [False, True])
def test_another_way_to_write_the_folder_is_the_same_folder(
    index: VideoIndex, videos: Path, tmp_path: Path, stopped: bool
) -> None:
    planted = dataclasses.replace(index, num_frames=index.num_frames + 100)
    if stopped:
        (tmp_path / "x.h5").unlink()
        with pytest.raises(KeyboardInterrupt):
            build_index(videos, tmp_path / "x.h5", num_workers=1, progress=stop_after(8))
        journal = tmp_path / "x.h5.partial"
        pattern, more = r'(?<="num_frames": )\d+', lambda match: str(int(match[0]) + 100)
        journal.write_text(re.sub(pattern, more, journal.read_text()))
    else:
        save_index(planted, tmp_path / "x.h5")
    (tmp_path / "link").symlink_to(videos)
    for way in (videos / ".." / "videos", tmp_path / "link"):
        again = build_index(way, tmp_path / "x.h5", num_workers=1)
        assert again.num_frames.tolist() == planted.num_frames.tolist()


def test_findings_of_another_prober_are_not_taken_over(
    index: VideoIndex, videos: Path, tmp_path: Path
) -> None:
    other = dataclasses.replace(index, num_frames=index.num_frames + 1, probed_by="another")
    save_index(other, tmp_path / "x.h5")
    again = build_index(videos, tmp_path / "x.h5")
    assert again.num_frames.tolist() == index.num_frames.tolist()


def test_a_video_that_takes_too_long_is_quarantined_and_tried_next_time(
    videos: Path, tmp_path: Path
) -> None:
    slow = {"codec": "mjpeg", "pixels": "yuvj420p", "height": 1072, "width": 1920}
    encode(videos / "run" / "long.avi", 60, **slow)  # type: ignore[arg-type]
    index = build_index(videos, tmp_path / "x.h5", timeout_seconds=0.15, num_workers=1)
    assert ("run/long.avi", "took longer than 0.15 s") in index.quarantine
    assert "run/long.avi" in build_index(videos, tmp_path / "x.h5").paths


# ---- the file


def test_every_truncation_and_altered_byte_is_noticed(index: VideoIndex, tmp_path: Path) -> None:
    body = (tmp_path / "x.h5").read_bytes()
    bad = tmp_path / "bad.h5"
    rng = np.random.default_rng(0)
    for size in [0, 1, 20, 511, 512, 513, *rng.integers(600, len(body), 40).tolist()]:
        bad.write_bytes(body[:size])
        with pytest.raises(InputError, match="bad.h5"):
            load_index(bad)
    header = 89  # what follows up to byte 512 is padding
    used = [*range(header), *rng.integers(512, len(body), 200).tolist()]
    for place in used:
        altered = bytearray(body)
        altered[place] ^= 1 << rng.integers(0, 8)
        bad.write_bytes(altered)
        with pytest.raises(InputError, match="bad.h5"):
            load_index(bad)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_text("text")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["num_frames"] = [1, 2]
    for name in ("a.h5", "b.h5"):
        with pytest.raises(InputError, match=f"{name} is not an index of fastdual; make one with"):
            load_index(tmp_path / name)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        load_index(tmp_path / "absent.h5")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        load_index(tmp_path)


def test_another_format_version_is_named(index: VideoIndex, tmp_path: Path) -> None:
    body = (tmp_path / "x.h5").read_bytes()
    (tmp_path / "x.h5").write_bytes(body.replace(b"fastdual-index 2", b"fastdual-index 9", 1))
    with pytest.raises(InputError, match="has format 9, this fastdual reads 2: build it again"):
        load_index(tmp_path / "x.h5")


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


def test_a_full_disk_leaves_the_old_index_and_nothing_else(
    index: VideoIndex, tmp_path: Path
) -> None:
    before = (tmp_path / "x.h5").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # writes fail as on a full disk
    try:
        with pytest.raises(FailureError, match="x.h5: the index could not be written: File too"):
            save_index(index, tmp_path / "x.h5")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / "x.h5").read_bytes() == before
    assert not list(tmp_path.glob(".x.h5*"))


def test_nothing_but_an_index_is_overwritten(
    index: VideoIndex, videos: Path, tmp_path: Path
) -> None:
    pack(index, tmp_path / "p.h5", PackOptions(num_workers=1))
    for precious in (tmp_path / "p.h5", videos / "run" / "0.mp4"):
        before = precious.read_bytes()
        with pytest.raises(InputError, match=rf"{precious.name} exists and is no index: delete it"):
            build_index(videos, precious, num_workers=1)
        assert precious.read_bytes() == before
        assert not precious.with_name(f"{precious.name}.partial").exists()
    (tmp_path / "empty.h5").touch()
    assert len(build_index(videos, tmp_path / "empty.h5", num_workers=1)) == 6


# ---- moved, changed, opened by folder


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
    with pytest.raises(InputError, match="6 of 6 videos.*first: run/0.mp4.*--root"):
        open_index(tmp_path / "x.h5")
    assert open_index(tmp_path / "x.h5", root=tmp_path / "gone").path(0).is_file()


def test_videos_that_changed_are_named(index: VideoIndex, videos: Path, tmp_path: Path) -> None:
    encode(videos / "walk" / "1.avi", 3, codec="mpeg4")
    with pytest.raises(InputError, match="1 of 6 videos changed.*walk/1.avi.*run fastdual index"):
        open_index(tmp_path / "x.h5")


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


# ---- verify and summary


def test_verify_finds_what_is_not_as_the_index_says(index: VideoIndex, videos: Path) -> None:
    assert verify_index(index) == ()
    lie = index.num_frames.copy()
    lie[2] = 70
    (videos / "walk" / "0.avi").write_bytes(b"garbage")
    (videos / "walk" / "1.avi").unlink()
    wrong = dict(verify_index(dataclasses.replace(index, num_frames=lie)))
    assert wrong == {
        "run/2.mp4": "has 7 frames, the index says 70",
        "walk/0.avi": "the file was changed after it was indexed: run fastdual index again",
        "walk/1.avi": "the file is missing",
    }


def test_summary_names_what_matters(index: VideoIndex) -> None:
    text = summary(index)
    for line in ("videos      6 under", "frames      45 (5 to 10 a video)", "quarantined 2"):
        assert line in text
    assert "walk/empty.mp4: the file is empty" in text


def test_a_file_that_crashes_the_decoder_is_quarantined_and_tried_again(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(videos / "run" / "0.mp4", videos / "run" / "crash.mp4")
    crashing = "tests.loaders.pool.tasks:probe_or_crash"
    with monkeypatch.context() as patch:
        patch.setattr(index_build, "PROBE_TASK", crashing)
        index = build_index(videos, tmp_path / "x.h5", num_workers=2)
    assert len(index) == 6
    assert dict(index.quarantine)["run/crash.mp4"] == "crashed its worker process (SIGSEGV)"
    again = build_index(videos, tmp_path / "x.h5", num_workers=1)
    assert len(again) == 7 and "run/crash.mp4" in again.paths


@pytest.fixture(autouse=True)
def no_worker_stays() -> Iterator[None]:
    yield
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children]
    assert not [command for command in commands if b"pool_worker" in command]
