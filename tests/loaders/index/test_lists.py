"""Lists as other projects and programs write them, and what is said of those that are none."""

import codecs
from pathlib import Path

import pytest

from fastdual.errors import InputError
from fastdual.loaders.index.lists import parse_columns, read_rows
from fastdual.loaders.index.sources import list_videos

PLAIN = [("a b.mp4", "run"), ("walk/c.mp4", "walk")]
# The same two videos, as they are met.
FORMS = {
    "commas": b"path,label\na b.mp4,run\nwalk/c.mp4,walk\n",
    "tabs": b"path\tlabel\na b.mp4\trun\nwalk/c.mp4\twalk\n",
    "semicolons": b"path;label\na b.mp4;run\nwalk/c.mp4;walk\n",
    "capitals": b"Path, Label \na b.mp4,run\nwalk/c.mp4,walk\n",
    "no heading": b"a b.mp4,run\nwalk/c.mp4,walk\n",
    "no heading, tabs": b"a b.mp4\trun\nwalk/c.mp4\twalk\n",
    "blanks": b"a b.mp4 run\nwalk/c.mp4   walk\n",
    "DOS lines": b"path,label\r\na b.mp4,run\r\nwalk/c.mp4,walk\r\n",
    "empty lines": b"\n\npath,label\n\na b.mp4,run\nwalk/c.mp4,walk\n\n\n",
    "byte-order mark": codecs.BOM_UTF8 + b"path,label\na b.mp4,run\nwalk/c.mp4,walk\n",
    "UTF-16": "path\tlabel\na b.mp4\trun\nwalk/c.mp4\twalk\n".encode("utf-16"),
    "UTF-16, big": codecs.BOM_UTF16_BE + "a b.mp4 run\nwalk/c.mp4 walk\n".encode("utf-16-be"),
    "UTF-16 without mark": "path,label\na b.mp4,run\nwalk/c.mp4,walk\n".encode("utf-16-le"),
    "quotes": b'path,label\n"a b.mp4",run\n"walk/c.mp4","walk"\n',
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("suffix", ["csv", "txt", "list"])
def test_every_usual_form_of_a_list_is_read(form: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"l.{suffix}"
    path.write_bytes(FORMS[form])
    assert [(e.path, e.label) for e in list_videos(path).entries] == PLAIN


def test_paths_alone_have_no_labels(tmp_path: Path) -> None:
    path = tmp_path / "l.txt"
    path.write_text("a b.mp4\nrun/c.mp4\n")
    assert [(e.path, e.label) for e in list_videos(path).entries] == [
        ("a b.mp4", None),
        ("run/c.mp4", None),
    ]


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("file,frames,class\na.mp4,10,run\n", "path=file,label=class"),
        ("File\tframes\tClass\na.mp4\t10\trun\n", "path=file,label=CLASS"),
        ("a.mp4 10 run\n", "path=1,label=3"),
        ("10,a.mp4,run\n", "label=3, path=2"),
    ],
)
def test_other_headings_are_named(text: str, columns: str, tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    path.write_text(text)
    (entry,) = list_videos(path, columns=parse_columns(columns)).entries
    assert (entry.path, entry.label) == ("a.mp4", "run")


@pytest.mark.parametrize("text", ["path", "path=", "=file", "path=a,path=b", "frames=2", ""])
def test_columns_that_name_nothing_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"--columns .*path=file,label=class.*group, split"):
        parse_columns(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file,class\na.mp4,run\n", r"no column 'path' \(columns: file, class\).*--columns path=f"),
        ("a.mp4 10 3\n", r"3 fields .* no heading.*--columns path=1,label=3"),
        ('path,label\na.mp4,run\n"b.mp4"x,run\n', "line 3: cannot be read as a CSV file"),
        ('path,label\na.mp4,run\n\n\n"b.mp4,run\n', "line 5: cannot be read as a CSV file"),
        ("path,label\na.mp4,run\n../b.mp4,run\n", "line 3: the path '../b.mp4' leads out"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        list_videos(path)


def test_a_heading_that_is_not_there_lists_those_that_are(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    path.write_text("file,class\na.mp4,run\n")
    with pytest.raises(InputError, match=r"--columns path=video: .*\(columns: file, class\)"):
        list(read_rows(path, {"path": "video"}))
    with pytest.raises(InputError, match="--columns names the headings of a CSV file"):
        list_videos(tmp_path, columns={"path": "video"})


def test_binary_files_are_no_lists(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(InputError, match="is not text: name a folder, a list of videos"):
        list_videos(path)


def test_labels_that_are_numbers_keep_their_order(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    path.write_text("".join(f"{n}.mp4 {n}\n" for n in range(1, 13)))
    assert list_videos(path).class_names == tuple(str(n) for n in range(1, 13))


def test_a_list_may_write_absolute_paths_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk" / "videos").mkdir(parents=True)
    (tmp_path / "data").symlink_to(tmp_path / "disk")
    path = tmp_path / "l.csv"
    for root, written in (("data", "disk"), ("disk", "data")):
        path.write_text(f"path\n{tmp_path}/{written}/videos/a.mp4\n")
        (entry,) = list_videos(path, root=tmp_path / root).entries
        assert entry.path == "videos/a.mp4"
    path.write_text(f"path\n{tmp_path}/other/a.mp4\n")
    with pytest.raises(InputError, match=f"the path '{tmp_path}/other/a.mp4' leads out of .*disk"):
        list_videos(path, root=tmp_path / "disk")
