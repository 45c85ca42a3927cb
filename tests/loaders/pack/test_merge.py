"""The packs of several jobs make one, if nothing is missing and nothing twice."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from fastdual.errors import InputError
from fastdual.loaders.decode.encoded import PackedBytes
from fastdual.loaders.index import VideoIndex
from fastdual.loaders.pack import PackOptions, job_file, merge_jobs, pack
from tests.loaders.pack.packing import AS_IS, SMALL


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
