"""Listing data sets: every layout, official lists, and lists that must be refused."""

import os
from collections import Counter
from pathlib import Path

import pytest

from fastdual.errors import InputError
from fastdual.loaders.index import load_index
from fastdual.loaders.index.listing import Listing, refuse_shared_groups
from fastdual.loaders.index.sources import list_videos


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def rows(listing: Listing) -> list[tuple[str, str | None, str, list[str]]]:
    return [(e.path, e.label, e.group, sorted(e.splits)) for e in listing.entries]


def write_csv(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_class_folders(tmp_path: Path) -> None:
    touch(tmp_path, "wave/b.mp4", "wave/deep/a.AVI", "run/c.webm", "run/notes.txt", ".x/d.mp4")
    touch(tmp_path, "run/._c.webm")
    listing = list_videos(tmp_path)
    assert rows(listing) == [
        ("run/c.webm", "run", "", []),
        ("wave/b.mp4", "wave", "", []),
        ("wave/deep/a.AVI", "wave", "", []),
    ]
    assert listing.class_names == ("run", "wave")


def test_split_folders_over_class_folders(tmp_path: Path) -> None:
    touch(tmp_path, "train/run/a.mp4", "test/run/b.mp4")
    assert rows(list_videos(tmp_path)) == [
        ("test/run/b.mp4", "run", "", ["test"]),
        ("train/run/a.mp4", "run", "", ["train"]),
    ]


def test_flat_folder_has_no_labels(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    assert rows(list_videos(tmp_path)) == [("a.mp4", None, "", []), ("b.mp4", None, "", [])]
    touch(tmp_path, "run/c.mp4")
    assert [label for _, label, _, _ in rows(list_videos(tmp_path, kind="flat"))] == [None] * 3


def test_a_link_that_leads_back_ends(tmp_path: Path) -> None:
    touch(tmp_path, "run/a.mp4")
    (tmp_path / "run" / "again").symlink_to(tmp_path)
    assert [path for path, *_ in rows(list_videos(tmp_path))] == ["run/a.mp4"]


def test_csv(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "list.csv",
        "\ufeffpath,label,group,split",
        '"a, b.mp4",run,g1,train',
        "x/./c.mp4,walk,g2,test",
        f"{tmp_path}/d.mp4,,,",
    )
    assert rows(list_videos(path)) == [
        ("a, b.mp4", "run", "g1", ["train"]),
        ("d.mp4", None, "", []),
        ("x/c.mp4", "walk", "g2", ["test"]),
    ]


def test_a_video_listed_twice_joins_its_splits(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "l.csv", "path,label,split", "a.mp4,run,a/train", "a.mp4,run,b/test"
    )
    assert rows(list_videos(path)) == [("a.mp4", "run", "", ["a/train", "b/test"])]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("../a.mp4,run", "line 2: the path '../a.mp4' leads out of .*--root"),
        ("x/../../a.mp4,run", "leads out of"),
        ("/etc/passwd,run", "leads out of"),
        (".,run", "leads out of"),
        (",run", "'' is not a path"),
    ],
)
def test_paths_that_leave_the_root_are_refused(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        list_videos(write_csv(tmp_path / "l.csv", "path,label", line))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["file,label", "a.mp4,run"], r"no column 'path' \(columns: file, label\)"),
        (["path,label", "a.mp4,run", "a.mp4,walk"], "lists a.mp4 twice, once as 'run'"),
        (["path,label"], "no video"),
        ([""], "no video"),
    ],
)
def test_bad_csv_files_are_refused(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        list_videos(write_csv(tmp_path / "l.csv", *lines))


def test_kinetics(tmp_path: Path) -> None:
    touch(tmp_path, "videos/abseiling/-0abc_def12_000012_000022.mp4", "videos/xyz.mkv")
    path = write_csv(
        tmp_path / "train.csv",
        "label,youtube_id,time_start,time_end,split",
        "abseiling,-0abc_def12,12,22,train",
        "air drumming,xyz,0,10,train",
        "air drumming,absent,5,15,train",
    )
    listing = list_videos(path, root=tmp_path / "videos")
    assert rows(listing) == [
        ("abseiling/-0abc_def12_000012_000022.mp4", "abseiling", "-0abc_def12", ["train"]),
        ("absent_000005_000015.mp4", "air drumming", "absent", ["train"]),
        ("xyz.mkv", "air drumming", "xyz", ["train"]),
    ]
    assert list_videos(tmp_path / "videos", annotations=path).entries == listing.entries


def test_a_kinetics_id_cannot_be_a_path(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "l.csv", "label,youtube_id,time_start,time_end", "a,../x,1,2")
    with pytest.raises(InputError, match="'../x' is not a YouTube id"):
        list_videos(path)


def test_ucf101_lists(tmp_path: Path) -> None:
    lists, videos = tmp_path / "lists", tmp_path / "UCF-101"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 ApplyEyeMakeup\r\n2 Archery\r\n")
    (lists / "trainlist01.txt").write_text("ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\r\n")
    (lists / "testlist01.txt").write_text("Archery/v_Archery_g01_c02.avi\n")
    (lists / "testlist02.txt").write_text("ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi\n")
    touch(videos, "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi", "v_Archery_g01_c02.avi")
    listing = list_videos(videos, annotations=lists)
    assert rows(listing) == [
        (
            "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi",
            "ApplyEyeMakeup",
            "g08",
            ["ucf101-1/train", "ucf101-2/test"],
        ),
        ("v_Archery_g01_c02.avi", "Archery", "g01", ["ucf101-1/test"]),
    ]
    assert listing.class_names == ("ApplyEyeMakeup", "Archery")


def test_the_official_ucf101_lists(shared_data: Path, tmp_path: Path) -> None:
    listing = list_videos(tmp_path, annotations=shared_data / "splits" / "ucf101")
    assert (len(listing.entries), len(listing.class_names)) == (13320, 101)
    assert Counter(split for entry in listing.entries for split in entry.splits) == {
        **{f"ucf101-{n}/train": count for n, count in zip("123", (9537, 9586, 9624), strict=True)},
        **{f"ucf101-{n}/test": count for n, count in zip("123", (3783, 3734, 3696), strict=True)},
    }
    refuse_shared_groups(listing)


def test_the_official_hmdb51_lists(shared_data: Path, tmp_path: Path) -> None:
    listing = list_videos(tmp_path, annotations=shared_data / "splits" / "hmdb51")
    assert (len(listing.entries), len(listing.class_names)) == (6766, 51)
    assert Counter(split for entry in listing.entries for split in entry.splits) == {
        f"hmdb51-{n}/{side}": count
        for n in "123"
        for side, count in (("train", 3570), ("test", 1530))
    }
    refuse_shared_groups(listing)


def test_a_damaged_official_list_is_named(tmp_path: Path) -> None:
    (tmp_path / "classInd.txt").write_text("1 Archery\n")
    (tmp_path / "trainlist01.txt").write_text("Archery/../../v_Archery_g01_c01.mp4 1\n")
    with pytest.raises(InputError, match="trainlist01.txt.*is not a line of a UCF101 list"):
        list_videos(tmp_path, annotations=tmp_path)


def test_a_group_on_both_sides_of_a_split_is_refused(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "l.csv", "path,label,group,split", "a.mp4,r,g1,train", "b.mp4,r,g1,test"
    )
    with pytest.raises(InputError, match="group 'g1'.*'(train|test)'.*--allow-shared-groups"):
        refuse_shared_groups(list_videos(path))


def test_a_group_may_change_sides_between_split_families(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "l.csv", "path,group,split", "a.mp4,g1,one/train", "b.mp4,g1,two/test"
    )
    refuse_shared_groups(list_videos(path))


def test_a_video_on_both_sides_is_refused_even_without_groups(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "l.csv", "path,split", "a.mp4,train", "a.mp4,test")
    with pytest.raises(InputError, match="video a.mp4"):
        refuse_shared_groups(list_videos(path))


@pytest.mark.parametrize("kind", ["csv", "kinetics"])
def test_a_folder_is_no_list(tmp_path: Path, kind: str) -> None:
    with pytest.raises(InputError, match=f"kind {kind} reads a CSV file, but .* is a folder"):
        list_videos(tmp_path, kind=kind)  # type: ignore[arg-type]


def test_missing_and_empty_sources_say_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist: name a folder of videos or a CSV file"):
        list_videos(tmp_path / "absent")
    with pytest.raises(InputError, match=r"no video in .*: looked for files ending in .*\.mp4"):
        list_videos(tmp_path)
    with pytest.raises(InputError, match="--root .* is not a folder"):
        list_videos(write_csv(tmp_path / "l.csv", "path", "a.mp4"), root=tmp_path / "absent")
    with pytest.raises(InputError, match="--annotations .* does not exist"):
        list_videos(tmp_path, annotations=tmp_path / "absent")


def test_pipes_and_devices_are_refused_before_they_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "list.csv").write_text("path\n")
    for special in (tmp_path / "pipe.csv", Path("/dev/zero")):
        refused = pytest.raises(InputError, match=f"{special} is a pipe or a device: name a file")
        with refused:
            list_videos(special)
        with refused:
            list_videos(tmp_path, annotations=special)
        with refused:
            load_index(special)
