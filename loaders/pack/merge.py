"""Putting the packs of several jobs together: a manifest over their files, and the check for it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from fastdual.errors import FailureError, InputError, why_not_written
from fastdual.loaders.index import pack_file
from fastdual.loaders.index.paths import refuse_folder
from fastdual.loaders.index.places import Packed, Shard
from fastdual.loaders.index.table import VideoIndex
from fastdual.loaders.pack.contents import Row, assemble
from fastdual.loaders.pack.spool import Record


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
    refuse_folder(output, "packed.h5")
    if output.exists():
        raise InputError(f"{output} exists: delete it, or choose another name")
    rows: dict[int, Row] = {}
    failed: dict[int, str] = {}
    shards: list[Shard] = []
    settings = ""
    numbers = {path: video for video, path in enumerate(index.paths)}
    for file in _job_files(output):
        part = VideoIndex.load(file)
        part.check_files()
        assert part.packed is not None
        if part.packed.source != index.fingerprint:
            raise InputError(f"{file} was packed from another index than this one")
        ours = _without_job(part.packed.settings)
        if settings not in ("", ours):
            raise InputError(f"{file} was packed with other options than the jobs before it")
        settings = ours
        for video, row in _rows(part, part.packed, numbers, len(shards)):
            if video in rows:
                raise InputError(f"{index.paths[video]} is there twice: in {file} and before it")
            rows[video] = row
        # What the index quarantined is in its fingerprint by its absence, whatever the reason.
        failed |= {numbers[path]: why for path, why in part.quarantine if path in numbers}
        shards += part.packed.shards
    missing = sorted(set(numbers.values()) - rows.keys() - failed.keys())
    if missing:
        raise InputError(
            f"{len(missing)} videos are in no job's pack (the first: {index.paths[missing[0]]}): "
            "delete that job's pack and pack it again"
        )
    ordered = [rows[video] for video in sorted(rows)]
    try:
        manifest = assemble(index, ordered, failed, tuple(shards), settings)
        pack_file.write_manifest(output, manifest)
    except OSError as error:
        raise FailureError(f"cannot write the pack {output}: {why_not_written(error)}") from error
    return VideoIndex.load(output)


def _job_files(output: Path) -> list[Path]:
    """The packs of jobs 1 to n beside the output."""
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
    return json.dumps({"transcoding": known["transcoding"]}, sort_keys=True)


def _rows(
    part: VideoIndex, packed: Packed, numbers: dict[str, int], first_shard: int
) -> list[tuple[int, Row]]:
    is_as_it_was = json.loads(packed.settings)["transcoding"] is None
    rows = []
    for video, path in enumerate(part.paths):
        if path not in numbers:
            raise InputError(f"{part.root} holds {path}, which the index does not know")
        begin, end = part.keyframe_offsets[video : video + 2]
        tables = (part.keyframe_frames, part.keyframe_pts, part.keyframe_bytes)
        facts = {
            "size": part.size[video].tolist(),
            "codec": part.codecs[video],
            "keyframes": [table[begin:end].tolist() for table in tables],
        }
        sha256, length = part.sha256[video].tobytes().hex(), int(part.file_bytes[video])
        record = Record(path, length, sha256, None if is_as_it_was else facts)
        place = first_shard + int(packed.shard_numbers[video]), int(packed.offsets[video])
        rows.append((numbers[path], (numbers[path], record, place)))
    return rows
