"""The pack: written, stopped, gone on with, split, merged, read by every backend, damaged."""

import dataclasses
import errno
import fcntl
import json
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from fastdual.errors import FailureError, InputError
from fastdual.loaders.decode.encoded import PackedBytes
from fastdual.loaders.index import (
    VideoIndex,
    build_index,
    open_index,
    save_index,
    summary,
    verify_index,
)
from fastdual.loaders.loader import ClipBatch, ClipLoader
from fastdual.loaders.pack import (
    PackOptions,
    Transcoding,
    hardware_warning,
    job_file,
    merge_jobs,
    pack,
)
from fastdual.loaders.pack.spool import Spool
from fastdual.loaders.plan import ClipSpec
from tests.loaders.clips import encode, read_frames, read_number, stop_after

AS_IS = PackOptions(num_workers=1)
SMALL = PackOptions(transcoding=Transcoding(short_side=32), num_workers=1)
VP9 = PackOptions(transcoding=Transcoding(codec="vp9"), num_workers=1)
SPEC = ClipSpec(frames_per_clip=4, frame_stride=2, resize_height=32, resize_width=43, crop_size=28)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos of two classes and several formats, and a file that cannot be used."""
    root = tmp_path_factory.mktemp("made")
    encode(root / "run" / "0.mp4", 20, b_frames=2, gop=6)
    encode(root / "run" / "1.mp4", 14, rotation=90)
    encode(root / "run" / "2.mkv", 12, times=[0, 1, 5, 6, 7, 30, 31, 32, 50, 51, 70, 71])
    encode(root / "walk" / "0.avi", 16, codec="mpeg4")
    encode(root / "walk" / "1.webm", 18, codec="libvpx-vp9")
    encode(root / "walk" / "2.mp4", 11, height=46)
    (root / "walk" / "text.mp4").write_text("not a video")
    return root


@pytest.fixture(scope="module")
def made_index(made: Path) -> VideoIndex:
    index = build_index(made, made.parent / "made.h5", num_workers=2)
    splits = {"train": np.array([0, 2, 3, 5]), "test": np.array([1, 4])}
    return dataclasses.replace(index, splits=splits)


@pytest.fixture
def index(made: Path, made_index: VideoIndex, tmp_path: Path) -> VideoIndex:
    """An index of files of the test's own."""
    return dataclasses.replace(made_index, root=shutil.copytree(made, tmp_path / "videos"))


@pytest.fixture(scope="module")
def small(made_index: VideoIndex, tmp_path_factory: pytest.TempPathFactory) -> VideoIndex:
    """A transcoded pack that no test changes."""
    return pack(made_index, tmp_path_factory.mktemp("small") / "p.h5", SMALL)


def numbers_in(index: VideoIndex, video: int) -> list[int]:
    """The numbers that the frames of a video show, each read by itself through the seek table."""
    shown = []
    for frame in range(index.num_frames[video]):
        (picture,) = read_frames(
            index.source(video),
            np.array([frame]),
            keyframes=index.keyframes(video),
            rotation=int(index.rotation[video]),
        )
        shown.append(read_number(np.rot90(picture, -1) if video == 1 else picture))
    return shown


def one_epoch(index: VideoIndex, **options: object) -> list[ClipBatch]:
    arguments = {"batch_size": 2, "num_workers": 1, "shuffle": False, **options}
    with ClipLoader(index, SPEC, **arguments) as loader:  # type: ignore[arg-type]
        return list(loader)


def flip(file: Path, offset: int) -> None:
    with open(file, "r+b") as opened:
        opened.seek(offset)
        (value,) = opened.read(1)
        opened.seek(offset)
        opened.write(bytes([value ^ 4]))


@contextmanager
def only_so_large(num_bytes: int) -> Iterator[None]:
    """Writing past this length of a file fails as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


# ---- what is in a pack


def test_bytes_as_they_are_come_back_with_the_same_index(index: VideoIndex, tmp_path: Path) -> None:
    packed = pack(index, tmp_path / "p.h5", AS_IS)
    for video in range(len(index)):
        source = packed.source(video)
        assert isinstance(source, PackedBytes)
        assert source.read() == index.path(video).read_bytes()
    # A run may go on with the pack of its index: what is loaded is the same.
    assert packed.fingerprint == index.fingerprint
    assert packed.quarantine == index.quarantine
    assert "as they were; in 1 file" in summary(packed)
    shutil.rmtree(index.root)
    reopened = open_index(tmp_path / "p.h5")
    assert verify_index(reopened, num_workers=1) == ()
    assert os.listdir(tmp_path) == ["p.h5"]


def test_any_hdf5_reader_finds_the_bytes(index: VideoIndex, tmp_path: Path) -> None:
    pack(index, tmp_path / "p.h5", AS_IS)
    with h5py.File(tmp_path / "p.h5") as file:
        assert file["data"].chunks is None and file["data"].id.get_offset() is not None
        begin = file["pack/offsets"][3]
        contents = file["data"][begin : begin + file["file_bytes"][3]].tobytes()
    assert contents == index.path(3).read_bytes()


def test_transcoding_keeps_frames_facts_and_splits(
    made_index: VideoIndex, small: VideoIndex
) -> None:
    assert small.codecs == ("h264",) * 6
    assert small.size.tolist() == [[32, 42], [42, 32], [32, 42], [32, 42], [32, 42], [32, 44]]
    assert not small.rotation.any()
    for name in ("num_frames", "fps", "duration_seconds", "labels", "modified_ns"):
        assert np.array_equal(getattr(small, name), getattr(made_index, name)), name
    for name in ("paths", "class_names", "groups", "quarantine"):
        assert getattr(small, name) == getattr(made_index, name), name
    for name, videos in made_index.splits.items():
        assert np.array_equal(small.splits[name], videos)
    for video in range(6):
        assert numbers_in(small, video) == list(range(made_index.num_frames[video]))
    assert small.fingerprint != made_index.fingerprint
    assert "codec h264, gop 8, quality 20, short side 32; in 1 file" in summary(small)


def test_a_pack_can_be_packed_again(small: VideoIndex, tmp_path: Path) -> None:
    again = pack(small, tmp_path / "again.h5", VP9)
    assert again.codecs == ("vp9",) * 6
    assert numbers_in(again, 0) == list(range(20))


# ---- reading


def test_clips_from_a_pack_equal_clips_from_files(index: VideoIndex, tmp_path: Path) -> None:
    packed = pack(index, tmp_path / "p.h5", AS_IS)
    for ours, theirs in zip(one_epoch(packed), one_epoch(index), strict=True):
        assert torch.equal(ours.clips, theirs.clips)
        assert torch.equal(ours.video_ids, theirs.video_ids)


def test_dali_decodes_the_bytes_of_a_pack(
    made_index: VideoIndex, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    packed = pack(made_index, tmp_path / "p.h5", VP9)
    dali, pyav = (one_epoch(packed, decode=name) for name in ("dali-cpu", "pyav"))
    assert not caplog.records  # PyAV did not have to help
    for ours, theirs in zip(dali, pyav, strict=True):
        # Two scalers, then normalisation by a standard deviation of about 58 levels.
        assert (ours.clips - theirs.clips).abs().mean() < 0.1


def test_an_altered_video_is_quarantined_and_replaced(
    made_index: VideoIndex, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    packed = pack(made_index, tmp_path / "p.h5", AS_IS)
    source = packed.source(2)
    assert isinstance(source, PackedBytes)
    flip(source.file, source.offset + source.length // 2)
    reopened = open_index(tmp_path / "p.h5")  # the tables are sound
    batches = one_epoch(reopened, quarantine_path=tmp_path / "bad.jsonl")
    assert 2 not in torch.cat([batch.video_ids for batch in batches])
    assert len(batches) == 3
    record = json.loads((tmp_path / "bad.jsonl").read_text())
    assert record["path"] == "run/2.mkv" and "were altered: pack it again" in record["reason"]
    assert "p.h5/run/2.mkv" in caplog.text
    ((path, reason),) = verify_index(reopened, num_workers=1)
    assert path == "run/2.mkv" and "were altered" in reason


def test_a_pack_cut_off_while_it_is_read_names_the_video(
    made_index: VideoIndex, tmp_path: Path
) -> None:
    packed = pack(made_index, tmp_path / "p.h5", AS_IS)
    source = packed.source(5)
    assert isinstance(source, PackedBytes)
    os.truncate(source.file, source.offset + 10)
    with pytest.raises(FailureError, match="is truncated: this video is not all there"):
        source.read()
    with pytest.raises(InputError, match=r"p\.h5 is truncated: .* bytes are there"):
        open_index(tmp_path / "p.h5")
    source.file.unlink()
    with pytest.raises(FailureError, match="cannot be read: No such file"):
        source.read()


@pytest.mark.parametrize("place", ["magic", "digest", "places", "padding", "tables", "end"])
def test_damaged_tables_are_refused(small: VideoIndex, tmp_path: Path, place: str) -> None:
    file = Path(shutil.copy(small.root, tmp_path / "p.h5"))
    assert small.packed is not None
    (shard,) = small.packed.shards
    at = {"magic": 9, "digest": 40, "places": 95, "padding": 300, "tables": shard.start - 1}
    flip(file, at.get(place, file.stat().st_size - 1))
    with pytest.raises(InputError, match=r"p\.h5"):
        open_index(file)


def test_what_is_no_pack_of_this_version_is_refused(small: VideoIndex, tmp_path: Path) -> None:
    contents = small.root.read_bytes()
    file = tmp_path / "p.h5"
    file.write_bytes(contents.replace(b"fastdual-pack 2", b"fastdual-pack 3", 1))
    with pytest.raises(InputError, match="has format 3, this fastdual reads 2: pack again"):
        open_index(file)
    file.write_bytes(contents + b"x")
    with pytest.raises(InputError, match="longer than its header says"):
        open_index(file)
    with pytest.raises(ValueError, match="saved in the pack"):
        save_index(small, tmp_path / "x.h5")


# ---- stopping and going on


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


def test_a_finished_pack_is_not_made_again_and_nothing_is_overwritten(
    index: VideoIndex, tmp_path: Path
) -> None:
    pack(index, tmp_path / "p.h5", AS_IS)
    shutil.rmtree(index.root)
    assert len(pack(index, tmp_path / "p.h5", AS_IS)) == 6
    with pytest.raises(InputError, match="from other videos or with other options: delete it"):
        pack(index, tmp_path / "p.h5", SMALL)
    (tmp_path / "notes.h5").write_text("mine")
    with pytest.raises(InputError, match="exists and is no pack: delete it"):
        pack(index, tmp_path / "notes.h5", AS_IS)
    for write in (lambda: pack(index, tmp_path, AS_IS), lambda: merge_jobs(index, tmp_path)):
        with pytest.raises(InputError, match="is a folder: name a file, such as .*packed.h5"):
            write()
    assert (tmp_path / "notes.h5").read_text() == "mine"


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

    monkeypatch.setattr("fastdual.loaders.pack.spool.fcntl.flock", flock)


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


def test_a_file_system_without_locks_is_told(
    index: VideoIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    before_locking(monkeypatch, refuse)
    with pytest.raises(FailureError, match=r"cannot write the pack .*: No locks available"):
        pack(index, tmp_path / "p.h5", AS_IS)


# ---- bad videos


def test_a_video_that_fails_is_quarantined(index: VideoIndex, tmp_path: Path) -> None:
    size = index.path(3).stat().st_size
    index.path(3).write_bytes(b"\0" * size)
    packed = pack(index, tmp_path / "p.h5", SMALL)
    assert "walk/0.avi" not in packed.paths and len(packed) == 5
    path, reason = packed.quarantine[-1]
    assert path == "walk/0.avi" and "was changed after it was indexed" in reason
    assert packed.splits["train"].tolist() == [0, 2, 4]
    assert packed.splits["test"].tolist() == [1, 3]
    assert numbers_in(packed, 4) == list(range(11))


def test_too_many_failures_stop_and_keep_what_is_done(index: VideoIndex, tmp_path: Path) -> None:
    away = index.root.rename(tmp_path / "away")
    with pytest.raises(
        FailureError, match="5 videos failed, more than 4 .*: mend or leave them out"
    ):
        pack(index, tmp_path / "p.h5", AS_IS)
    away.rename(index.root)
    assert len(pack(index, tmp_path / "p.h5", AS_IS)) == 6
    away = index.root.rename(tmp_path / "away")
    with pytest.raises(FailureError, match="no video could be packed"):
        pack(index, tmp_path / "q.h5", dataclasses.replace(AS_IS, job=(1, 3)))


# ---- shards and jobs


def test_shards_stay_below_their_size_and_work_alone(index: VideoIndex, tmp_path: Path) -> None:
    options = dataclasses.replace(SMALL, shard_bytes=7000)
    packed = pack(index, tmp_path / "p.h5", options)
    assert packed.packed is not None and len(packed.packed.shards) == 3
    assert all(shard.length <= 7000 for shard in packed.packed.shards)
    assert [numbers_in(packed, v) for v in range(6)] == [list(range(n)) for n in index.num_frames]
    alone = [open_index(shard.file) for shard in packed.packed.shards]
    assert sum((shard.paths for shard in alone), ()) == packed.paths
    assert (tmp_path / "p.h5").stat().st_size < 40_000


def test_shards_that_are_gone_moved_or_foreign(index: VideoIndex, tmp_path: Path) -> None:
    options = dataclasses.replace(SMALL, shard_bytes=7000)
    packed = pack(index, tmp_path / "p.h5", options)
    disk = tmp_path / "disk"
    disk.mkdir()
    for number in range(3):
        (tmp_path / f"p-0000{number}.h5").rename(disk / f"p-0000{number}.h5")
    with pytest.raises(InputError, match=r"p-00000\.h5 of the pack is not in .*--root"):
        open_index(tmp_path / "p.h5")
    moved = open_index(tmp_path / "p.h5", root=disk)
    assert moved.fingerprint == packed.fingerprint and numbers_in(moved, 5) == list(range(11))
    shutil.copy(disk / "p-00000.h5", disk / "p-00001.h5")
    with pytest.raises(InputError, match=r"p-00001\.h5 belongs to another pack"):
        open_index(tmp_path / "p.h5", root=disk)
    (tmp_path / "p.h5").unlink()
    shutil.copy(disk / "p-00000.h5", tmp_path)
    with pytest.raises(InputError, match=r"p-00000\.h5 exists: delete it"):
        pack(index, tmp_path / "p.h5", options)


@pytest.mark.parametrize("options", [AS_IS, SMALL])
def test_jobs_merge_to_the_whole(index: VideoIndex, tmp_path: Path, options: PackOptions) -> None:
    whole = pack(index, tmp_path / "whole.h5", options)
    for number in (1, 2, 3):
        shards = 7000 if number == 2 else None
        part = dataclasses.replace(options, job=(number, 3), shard_bytes=shards)
        pack(index, tmp_path / "p.h5", part)
    shutil.rmtree(index.root)
    merged = merge_jobs(index, tmp_path / "p.h5")
    assert merged.fingerprint == whole.fingerprint
    for video in range(6):
        ours, theirs = merged.source(video), whole.source(video)
        assert isinstance(ours, PackedBytes) and isinstance(theirs, PackedBytes)
        assert ours.read() == theirs.read()
    with pytest.raises(InputError, match=r"p\.h5 exists"):
        merge_jobs(index, tmp_path / "p.h5")


def test_a_merge_keeps_what_failed_in_a_job(index: VideoIndex, tmp_path: Path) -> None:
    index.path(3).write_bytes(b"\0" * index.path(3).stat().st_size)
    for number in (1, 2):
        pack(index, tmp_path / "p.h5", dataclasses.replace(SMALL, job=(number, 2)))
    merged = merge_jobs(index, tmp_path / "p.h5")
    assert len(merged) == 5 and [path for path, _ in merged.quarantine] == [
        "walk/text.mp4",
        "walk/0.avi",
    ]


def test_machines_may_have_other_reasons_for_the_quarantine(
    index: VideoIndex, tmp_path: Path
) -> None:
    for number, reason in ((1, "crashed its worker process"), (2, "took longer than 300 s")):
        elsewhere = dataclasses.replace(index, quarantine=(("walk/text.mp4", reason),))
        pack(elsewhere, tmp_path / "p.h5", dataclasses.replace(AS_IS, job=(number, 2)))
    merged = merge_jobs(index, tmp_path / "p.h5")
    assert len(merged) == 6 and merged.quarantine == index.quarantine


def test_a_merge_that_is_not_whole_is_refused(index: VideoIndex, tmp_path: Path) -> None:
    output = tmp_path / "p.h5"
    first, second = (job_file(output, (number, 2)) for number in (1, 2))
    with pytest.raises(InputError, match="there is no pack called"):
        merge_jobs(index, output)
    pack(index, output, dataclasses.replace(AS_IS, job=(1, 2)))
    with pytest.raises(InputError, match="job 2/2 is missing .* --job 2/2"):
        merge_jobs(index, output)
    shutil.copy(first, second)
    with pytest.raises(InputError, match=r"run/0\.mp4 is there twice"):
        merge_jobs(index, output)
    other = tmp_path / "other"
    pack(index, other / "p.h5", dataclasses.replace(AS_IS, job=(2, 4)))
    shutil.copy(job_file(other / "p.h5", (2, 4)), second)
    with pytest.raises(InputError, match=r"1 videos are in no job's pack \(the first: walk/0\.avi"):
        merge_jobs(index, output)
    second.unlink()
    pack(index, output, dataclasses.replace(SMALL, job=(2, 2)))
    with pytest.raises(InputError, match="other options than the jobs before"):
        merge_jobs(index, output)
    relabelled = dataclasses.replace(index, labels=index.labels[::-1].copy())
    with pytest.raises(InputError, match="from another index"):
        merge_jobs(relabelled, output)
    second.rename(job_file(output, (2, 3)))
    with pytest.raises(InputError, match="packs of different numbers of jobs"):
        merge_jobs(index, output)


def test_jobs_that_do_not_exist_are_refused(index: VideoIndex, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name one of 1/3 to 3/3"):
        pack(index, tmp_path / "p.h5", dataclasses.replace(AS_IS, job=(4, 3)))
    with pytest.raises(InputError, match="job 7/7 has nothing to do: there are 6 videos"):
        pack(index, tmp_path / "p.h5", dataclasses.replace(AS_IS, job=(7, 7)))


def test_sizes_below_the_hardware_are_warned_of(made_index: VideoIndex) -> None:
    big = Transcoding(size=(128, 172))
    assert hardware_warning(made_index, big) is None
    hevc = hardware_warning(made_index, dataclasses.replace(big, codec="hevc"))
    assert hevc is not None and "6 of 6 videos" in hevc and "hevc of 172x128" in hevc
    assert hevc.endswith("; --codec h264 takes almost every size")
    tiny = hardware_warning(made_index, dataclasses.replace(big, size=(32, 16)))
    assert tiny is not None and tiny.endswith(
        "NVDEC refuses h264 of 16x32; --size can make them larger"
    )
    assert "mjpeg" in (hardware_warning(made_index, Transcoding(codec="mjpeg")) or "")
    assert "1 of 6" in (hardware_warning(made_index, None) or "")  # the VP9 file of 64x48
