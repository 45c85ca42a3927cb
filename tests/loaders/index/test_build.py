"""Building an index: what it finds, stopped and continued, built again."""

import dataclasses
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastdual.errors import InputError
from fastdual.loaders.index import (
    VideoIndex,
    build_index,
    load_index,
    save_index,
    summary,
)
from fastdual.loaders.index import build as index_build
from fastdual.loaders.pack import PackOptions, pack
from tests.loaders.clips import encode, stop_after


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


def test_file_names_need_not_be_utf8(videos: Path, tmp_path: Path) -> None:
    odd = b"\xff\xfe.mp4".decode(errors="surrogateescape")
    shutil.copy(videos / "run" / "0.mp4", videos / "run" / odd)
    index = build_index(videos, tmp_path / "x.h5")
    assert load_index(tmp_path / "x.h5").paths == index.paths
    assert f"run/{odd}" in index.paths
    summary(index).encode()


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


def test_nothing_but_an_index_is_overwritten(
    index: VideoIndex, videos: Path, tmp_path: Path
) -> None:
    pack(index, tmp_path / "p.h5", PackOptions(num_workers=1))
    for precious in (tmp_path / "p.h5", videos / "run" / "0.mp4"):
        before = precious.read_bytes()
        with pytest.raises(
            InputError, match=rf"{precious.name} exists and is not an index: delete it"
        ):
            build_index(videos, precious, num_workers=1)
        assert precious.read_bytes() == before
        assert not precious.with_name(f"{precious.name}.partial").exists()
    (tmp_path / "empty.h5").touch()
    assert len(build_index(videos, tmp_path / "empty.h5", num_workers=1)) == 6


def test_a_file_that_crashes_the_decoder_is_quarantined_and_tried_again(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(videos / "run" / "0.mp4", videos / "run" / "crash.mp4")
    crashing = "tests.loaders.pool.tasks:examine_or_crash"
    with monkeypatch.context() as patch:
        patch.setattr(index_build, "EXAMINE_TASK", crashing)
        index = build_index(videos, tmp_path / "x.h5", num_workers=2)
    assert len(index) == 6
    assert dict(index.quarantine)["run/crash.mp4"] == "crashed its worker process (SIGSEGV)"
    again = build_index(videos, tmp_path / "x.h5", num_workers=1)
    assert len(again) == 7 and "run/crash.mp4" in again.paths


def test_an_error_of_reading_is_no_property_of_the_file(videos: Path, tmp_path: Path) -> None:
    # The system answers "input/output error" to whoever reads this file.
    (videos / "run" / "flaky.mp4").symlink_to("/proc/self/mem")
    index = build_index(videos, tmp_path / "x.h5", num_workers=2)
    reasons = dict(index.quarantine)
    assert reasons["run/flaky.mp4"] == "cannot be read now: Input/output error"
    stamps = dict(zip(reasons, index.quarantine_stamps.tolist(), strict=True))
    assert stamps["run/flaky.mp4"] == [0, 0]  # that of no file: it is asked again
    (videos / "run" / "flaky.mp4").unlink()
    shutil.copy(videos / "run" / "0.mp4", videos / "run" / "flaky.mp4")
    again = build_index(videos, tmp_path / "x.h5", num_workers=1)
    assert "run/flaky.mp4" in again.paths
