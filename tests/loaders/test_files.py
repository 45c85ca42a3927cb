"""Files: written whole or not at all, the real reason where not; lines of JSON; checksums."""

import errno
import hashlib
import os
from pathlib import Path

import pytest

from fastdual.errors import FailureError
from fastdual.loaders.files import append_line, read_lines, sha256_of, write


def test_a_missing_folder_is_made_and_text_is_stored_as_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.txt"
    write(path, "é \udcff\n", "the text")
    assert path.read_bytes() == b"\xc3\xa9 \xff\n"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.ENOSPC, "No space left on device; free some space and start again"),
        (errno.EROFS, "Read-only file system"),
    ],
)
def test_the_message_gives_the_cause_and_the_old_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, reason: str
) -> None:
    path = tmp_path / "x.bin"
    write(path, b"old", "the numbers")

    def fail(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(FailureError) as caught:
        write(path, b"new", "the numbers")
    assert str(caught.value) == f"{path}: the numbers could not be written: {reason}"
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_in_the_place_of_the_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(FailureError, match=r"x: the index could not be written: Is a directory$"):
        write(tmp_path / "x", b"", "the index")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(FailureError, match="the index could not be written: (Not a dir|File exi)"):
        write(tmp_path / "x" / "y" / "z", b"", "the index")


def test_the_mode_is_what_the_user_asked_the_system_for(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write(tmp_path / "x", b"", "the index")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640


def test_lines_come_back_but_for_those_that_were_cut(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert list(read_lines(path)) == []
    append_line(path, {"path": "a\udcff"}, "the log")
    with path.open("ab") as file:
        file.write(b'7\nnull\n\xff\n{"step": ')
    assert list(read_lines(path)) == [{"path": "a\udcff"}]
    with pytest.raises(FailureError, match="the log could not be written: No such file"):
        append_line(tmp_path / "none" / "log.jsonl", {}, "the log")


def test_the_checksum_is_that_of_the_whole_file(tmp_path: Path) -> None:
    path, content = tmp_path / "x", os.urandom(2_500_000)
    path.write_bytes(content)
    assert sha256_of(path) == hashlib.sha256(content).hexdigest()
