"""A pack that is stopped goes on; one process at a time writes to it."""

import dataclasses
import errno
import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastdual.errors import FailureError, InputError
from fastdual.loaders.index import VideoIndex, verify_index
from fastdual.loaders.pack import pack
from fastdual.loaders.pack.spool import Spool
from tests.loaders.clips import stop_after
from tests.loaders.damage import flip, only_so_large
from tests.loaders.pack.packing import AS_IS, SMALL


@pytest.mark.parametrize("shard_bytes", [None, 7000])
def test_a_stopped_pack_goes_on_to_the_same_bytes(
    index: VideoIndex, tmp_path: Path, shard_bytes: int | None
) -> None:
    options = dataclasses.replace(SMALL, shard_bytes=shard_bytes)
    pack(index, tmp_path / "whole" / "p.h5", options)
    with pytest.raises(KeyboardInterrupt):
        pack(index, tmp_path / "p" / "p.h5", options, progress=stop_after(4))
    for video in range(3):
        index.path(video).unlink()  # what is packed is not read again
    with open(tmp_path / "p" / "p.h5.partial.jsonl", "a") as journal:
        journal.write('{"path": "torn')
    seen: list[int] = []
    pack(index, tmp_path / "p" / "p.h5", options, progress=lambda done, *_: seen.append(done))
    assert seen == [5, 6]
    names = sorted(os.listdir(tmp_path / "whole"))
    assert sorted(os.listdir(tmp_path / "p")) == names and len(names) == (4 if shard_bytes else 1)
    for name in names:
        ours, theirs = (tmp_path / folder / name for folder in ("p", "whole"))
        assert ours.read_bytes() == theirs.read_bytes(), name


def test_bytes_that_did_not_reach_the_disk_are_packed_again(
    index: VideoIndex, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        pack(index, tmp_path / "p.h5", AS_IS, progress=stop_after(4))
    spool = tmp_path / "p.h5.partial"
    flip(spool, spool.stat().st_size - index.path(3).stat().st_size)
    packed = pack(index, tmp_path / "p.h5", AS_IS)
    assert verify_index(packed, num_workers=1) == ()
    assert packed.fingerprint == index.fingerprint


@pytest.mark.parametrize("room", [9000, 20_000])
def test_a_full_disk_keeps_what_is_packed(index: VideoIndex, tmp_path: Path, room: int) -> None:
    whole = pack(index, tmp_path / "whole.h5", AS_IS).root.read_bytes()
    full = r"cannot write the pack .*p\.h5: File too large"
    with only_so_large(room), pytest.raises(FailureError, match=full):
        pack(index, tmp_path / "p.h5", AS_IS)
    journal = tmp_path / "p.h5.partial.jsonl"
    known = journal.read_bytes()
    with only_so_large(1), pytest.raises(FailureError, match=full):
        pack(index, tmp_path / "p.h5", AS_IS)
    lines = known.count(b"\n")
    assert journal.read_bytes().splitlines()[:lines] == known.splitlines()[:lines]
    seen: list[int] = []
    pack(index, tmp_path / "p.h5", AS_IS, progress=lambda done, *_: seen.append(done))
    assert seen == list(range(lines, 7)) and lines > 1
    assert (tmp_path / "p.h5").read_bytes() == whole


def test_other_options_start_anew(index: VideoIndex, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        pack(index, tmp_path / "p.h5", AS_IS, progress=stop_after(3))
    seen: list[int] = []
    packed = pack(index, tmp_path / "p.h5", SMALL, progress=lambda done, *_: seen.append(done))
    assert seen == [1, 2, 3, 4, 5, 6] and packed.codecs == ("h264",) * 6


def test_two_packs_to_one_file_at_a_time_are_refused(index: VideoIndex, tmp_path: Path) -> None:
    def intrude(done: int, total: int, bad: int) -> None:
        if done == 2:
            with pytest.raises(InputError, match="is being packed by another process"):
                pack(index, tmp_path / "p.h5", AS_IS)

    assert len(pack(index, tmp_path / "p.h5", AS_IS, progress=intrude)) == 6


def before_locking(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Have something happen between opening the journal and locking it, once."""
    lock, acts = fcntl.flock, [act]

    def flock(file: Any, how: int) -> None:
        if acts:
            acts.pop()()
        lock(file, how)

    monkeypatch.setattr("fastdual.loaders.files.fcntl.flock", flock)


def test_a_journal_that_was_just_removed_is_not_what_is_locked(
    index: VideoIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_locking(monkeypatch, (tmp_path / "p.h5.partial.jsonl").unlink)
    refused = pytest.raises(InputError, match="is being packed by another process")
    with Spool(tmp_path / "p.h5", {}, 512, None), refused:
        pack(index, tmp_path / "p.h5", AS_IS)


def test_a_pack_that_was_just_finished_is_not_touched(
    index: VideoIndex, small: VideoIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_locking(monkeypatch, lambda: shutil.copy(small.root, tmp_path / "p.h5"))
    with pytest.raises(InputError, match=r"p\.h5 was finished by another process just now"):
        pack(index, tmp_path / "p.h5", AS_IS)
    assert (tmp_path / "p.h5").read_bytes() == small.root.read_bytes()
    assert [name for name in os.listdir(tmp_path) if name.startswith("p.")] == ["p.h5"]


def test_without_locks_a_pack_is_made_with_a_warning(
    index: VideoIndex,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse() -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    before_locking(monkeypatch, refuse)
    assert len(pack(index, tmp_path / "p.h5", AS_IS)) == 6
    assert "its file system has no locks" in caplog.text
