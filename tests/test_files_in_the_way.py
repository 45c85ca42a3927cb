"""Unfinished files and locks are ours alone: a link, a pipe or a folder in their place is refused.

A link would have us write into somebody else's file, and a pipe would have us wait for ever.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fastdual.errors import FailureError, InputError
from fastdual.loaders import remote
from fastdual.loaders.batch.quarantine import Quarantine
from fastdual.loaders.files import append_line, write
from fastdual.loaders.index import build_index, load_index
from fastdual.loaders.pack import PackOptions, pack
from fastdual.run.folder import RunFolder
from tests.runs import write_index

PRECIOUS = b"not ours, and longer than nothing"


def _build(index: Path) -> None:
    build_index(index.parent / "videos", index.parent / "o.h5", num_workers=1)


def _pack(index: Path) -> None:
    pack(load_index(index), index.parent / "o.h5", PackOptions(num_workers=1))


def _claim(index: Path) -> None:
    with RunFolder(index.parent).claimed(""):
        pass


# What is written, and the name beside the index under which it is not finished or locked.
WRITERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "index": (_build, "o.h5.partial"),
    "pack": (_pack, "o.h5.partial"),
    "journal of a pack": (_pack, "o.h5.partial.jsonl"),
    "run": (_claim, ".lock"),
    "log": (lambda index: append_line(index.parent / "log.jsonl", {}, "the log"), "log.jsonl"),
    "remote": (lambda index: remote._make_room(index.parent, 1, index), ".lock"),
    "quarantine": (
        lambda index: Quarantine(load_index(index), 2, index.parent / "q.jsonl").add(0, "cut"),
        "q.jsonl",
    ),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_index(tmp_path_factory.mktemp("made"), count=2)


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.timeout(60)
def test_what_is_in_the_way_is_named_and_stays(
    name: str, kind: str, made: Path, tmp_path: Path
) -> None:
    index = tmp_path / made.name
    index.symlink_to(made)
    (tmp_path / "videos").symlink_to(made.parent / "videos")
    precious = tmp_path / "precious"
    precious.write_bytes(PRECIOUS)
    writer, place = WRITERS[name]
    path = tmp_path / place
    if kind == "link":
        path.symlink_to(precious)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises((InputError, FailureError)) as caught:
        writer(index)
    assert place in str(caught.value) and "\n" not in str(caught.value)
    assert precious.read_bytes() == PRECIOUS
    assert path.is_symlink() or not path.is_file()


def test_a_whole_file_is_written_beside_a_link_of_its_unfinished_name(tmp_path: Path) -> None:
    """Its name is drawn anew each time, and made only where nothing is."""
    write(tmp_path / "x", b"1", "the file")
    assert os.listdir(tmp_path) == ["x"]
