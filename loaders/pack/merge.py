"""Putting the packs of several jobs together: a manifest over their files, checked for gaps."""

import json
import re
from pathlib import Path

from fastdual.errors import FailureError, InputError, why_not_written
from fastdual.loaders.files import check_place
from fastdual.loaders.index import pack_file
from fastdual.loaders.index.file import check_files, load_index
from fastdual.loaders.index.places import Shard, frame_stride
from fastdual.loaders.index.table import VideoIndex
from fastdual.loaders.pack.contents import Row, assemble


def merge_jobs(index: VideoIndex, output: Path) -> VideoIndex:
    """Write the manifest OUT over the packs OUT.job-i-of-n.h5 beside it, and return its index.

    The jobs' files stay where they are and keep the bytes.

    Args:
        index: What was packed; the videos themselves are not needed.
        output: The manifest.

    Raises:
        InputError: A job is missing, was packed from something else or in another way, or a video
            is missing or there twice.
        FailureError: The manifest cannot be written.
    """
    output = Path(output).absolute()
    check_place(output, "the pack")
    if output.exists():
        raise InputError(f"{output} exists: delete it, or choose another name")
    merge = _Merge(index)
    for file in _job_files(output):
        merge.add(file)
    missing = sorted(set(range(len(index))) - merge.rows.keys() - merge.failed.keys())
    if missing:
        raise InputError(
            f"{len(missing)} videos are in no job's pack (the first: {index.paths[missing[0]]}): "
            "delete that job's pack and pack it again"
        )
    try:
        pack_file.write_manifest(output, merge.result())
    except OSError as error:
        raise FailureError(f"cannot write the pack {output}: {why_not_written(error)}") from error
    return load_index(output)


class _Merge:
    """The packs of some jobs, added one after the other and compared with what was packed.

    Attributes:
        rows: By the number of a video in the index.
        failed: Number and reason of those that no job could pack.
    """

    def __init__(self, index: VideoIndex) -> None:
        self.rows: dict[int, Row] = {}
        self.failed: dict[int, str] = {}
        self._index = index
        self._numbers = {path: number for number, path in enumerate(index.paths)}
        self._shards: list[Shard] = []
        self._settings = ""

    def add(self, file: Path) -> None:
        """Add the pack of one job.

        Raises:
            InputError: It does not belong to the index, or not with those before it.
        """
        part = load_index(file)
        check_files(part)
        assert part.packed is not None
        if part.packed.source != self._index.fingerprint:
            raise InputError(f"{file} was packed from another index than this one")
        settings = _without_job(part.packed.settings)
        if self._settings not in ("", settings):
            raise InputError(f"{file} was packed with other options than the jobs before it")
        self._settings = settings
        for row, path in enumerate(part.paths):
            video = self._numbers.get(path)
            if video is None:
                raise InputError(f"{file} holds {path}, which the index does not know")
            if video in self.rows:
                raise InputError(f"{path} is there twice: in {file} and before it")
            shard = len(self._shards) + int(part.packed.shard_numbers[row])
            self.rows[video] = video, part.video(row), (shard, int(part.packed.offsets[row]))
        # What the index quarantined is in its fingerprint by its absence, whatever the reason.
        known = [(self._numbers.get(path), reason) for path, reason in part.quarantine]
        self.failed |= {video: reason for video, reason in known if video is not None}
        self._shards += part.packed.shards

    def result(self) -> VideoIndex:
        """Return the index of all that was added."""
        rows = [self.rows[video] for video in sorted(self.rows)]
        return assemble(self._index, rows, self.failed, tuple(self._shards), self._settings)


def _job_files(output: Path) -> list[Path]:
    """Return the packs of jobs 1 to n beside the output, or raise InputError."""
    pattern = rf"{re.escape(output.stem)}\.job-(\d+)-of-(\d+){re.escape(output.suffix)}"
    matches = [re.fullmatch(pattern, path.name) for path in output.parent.iterdir()]
    found = {(int(match[1]), int(match[2])): match[0] for match in matches if match is not None}
    counts = {count for _, count in found}
    if len(counts) != 1:
        what = "there are packs of different numbers of jobs" if counts else "there is no pack"
        raise InputError(
            f"{what} called {output.stem}.job-1-of-n{output.suffix} ... in {output.parent}"
        )
    count = counts.pop()
    missing = [number for number in range(1, count + 1) if (number, count) not in found]
    if missing:
        raise InputError(
            f"job {missing[0]}/{count} is missing in {output.parent}: pack it with --job "
            f"{missing[0]}/{count}, or bring its files here"
        )
    return [output.parent / found[number, count] for number in range(1, count + 1)]


def _without_job(settings: str) -> str:
    known = json.loads(settings)
    parts = {"transcoding": known["transcoding"], "frame_stride": frame_stride(settings)}
    return json.dumps(parts, sort_keys=True)
