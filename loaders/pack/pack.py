"""Packing: the videos of an index, as they are or re-encoded, into one file or several shards.

Machines may share the work: each packs the videos of its job, and `merge_jobs` puts the packs
together, without copying them, when nothing is missing and nothing twice.
"""

import glob
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fastdual.errors import FailureError, InputError, why_not_written
from fastdual.loaders.batch.kinds import kinds_of, why_not_kind
from fastdual.loaders.batch.quarantine import most_tolerated
from fastdual.loaders.files import check_place
from fastdual.loaders.index import pack_file
from fastdual.loaders.index.build import Progress
from fastdual.loaders.index.file import load_index
from fastdual.loaders.index.places import Shard
from fastdual.loaders.index.table import VideoIndex
from fastdual.loaders.pack.contents import assemble
from fastdual.loaders.pack.spool import Spool
from fastdual.loaders.pack.transcode import Transcoding
from fastdual.loaders.pool import ProcessPool, TaskFailure
from fastdual.loaders.pool.cpus import available_cpus

# No pack of the table in docs/data.md has less than twice that.
_LEAST_BYTES_PER_PIXEL = 0.01
TIMEOUT_SECONDS = 1800.0  # a two-hour film at 1080p; raise it for longer ones


@dataclass(frozen=True, kw_only=True)
class PackOptions:
    """What is packed and how.

    Attributes:
        transcoding: None keeps the bytes as they are.
        shard_bytes: Limit of a file; a new one begins where it would be passed. None for one file.
        job: (i, n): the i-th of n disjoint parts, counted from 1.
        num_workers: Processes; None for one per core.
        timeout_seconds: For each video; one that takes longer has failed.
    """

    transcoding: Transcoding | None = None
    shard_bytes: int | None = None
    job: tuple[int, int] = (1, 1)
    num_workers: int | None = None
    timeout_seconds: float = TIMEOUT_SECONDS


def job_file(output: Path, job: tuple[int, int]) -> Path:
    """Return what job (i, n) writes: OUT.job-i-of-n.h5, or OUT itself if it does everything.

    Raises:
        InputError: There is no such job.
    """
    number, count = job
    if not 1 <= number <= count:
        raise InputError(f"job {number}/{count}: name one of 1/{count} to {count}/{count}")
    if count == 1:
        return output
    return output.with_name(f"{output.stem}.job-{number}-of-{count}{output.suffix}")


def pack(
    index: VideoIndex, output: Path, options: PackOptions, *, progress: Progress | None = None
) -> VideoIndex:
    """Pack the videos of an index (or of another pack) and return the pack's index.

    A video that fails is quarantined; frames keep their numbers, and splits and labels their
    meaning. A pack that was stopped continues where it was.

    Args:
        index: What to pack.
        output: The pack; with a job, see `job_file`.
        options: What and how.
        progress: Told after every video.

    Raises:
        InputError: The output is something else, or being written; there is nothing to pack, or
            nothing that encodes it.
        FailureError: More than 1 % of the videos failed, or the pack cannot be written.
    """
    output = job_file(Path(output).absolute(), options.job)
    number, count = options.job
    videos = range(number - 1, len(index), count)
    if not videos:
        raise InputError(f"job {number}/{count} has nothing to do: there are {len(index)} videos")
    finished = _already_packed(index, output, options)
    if finished is not None:
        return finished
    if options.transcoding is not None:
        options.transcoding.check_encoder()
    try:
        start = pack_file.data_start()
        identity = {"source": index.fingerprint, "start": start, "libav": _libav()}
        identity["settings"] = _settings(index, options)
        check_place(output, "the pack", needed_bytes=_least_bytes(index, videos, options, output))
        with Spool(output, identity, start, options.shard_bytes) as spool:
            failed = _fill(index, videos, spool, options, progress)
            _finish(index, spool, options, failed)
            spool.discard()
    except OSError as error:
        raise FailureError(f"cannot write the pack {output}: {why_not_written(error)}") from error
    return load_index(output)


def _least_bytes(
    index: VideoIndex, videos: Sequence[int], options: PackOptions, output: Path
) -> int:
    """Return what a pack will still take at least, beside the files that it has."""
    if options.transcoding is None:
        needed = int(index.file_bytes[list(videos)].sum())
    else:
        known, size_of = map(index.video, videos), options.transcoding.output_size
        sizes = np.array([size_of(video.size, video.rotation) for video in known], np.int64)
        pixels = index.num_frames[list(videos)] @ sizes.prod(axis=1)
        needed = int(_LEAST_BYTES_PER_PIXEL * pixels)
    parts = output.parent.glob(f"{glob.escape(output.stem)}*{glob.escape(output.suffix)}*")
    return max(0, needed - sum(part.stat().st_size for part in parts))


def _settings(index: VideoIndex, options: PackOptions) -> str:
    """Return what decides the contents of a pack, and the order of its frames, as JSON."""
    settings: dict[str, Any] = {"job": options.job, "shard_bytes": options.shard_bytes}
    if options.transcoding is None:
        settings |= {"transcoding": None, "frame_stride": index.frame_stride}
    else:
        stride = options.transcoding.stride
        settings |= {"transcoding": options.transcoding.settings(), "frame_stride": stride}
    return json.dumps(settings, sort_keys=True)


def _libav() -> str:
    import av

    return ".".join(map(str, av.library_versions["libavcodec"]))


def _already_packed(index: VideoIndex, output: Path, options: PackOptions) -> VideoIndex | None:
    if not output.exists():
        return None
    check_place(output, "the pack")
    if not pack_file.is_pack(output):
        raise InputError(f"{output} exists and is not a pack: delete it, or choose another name")
    known = load_index(output)
    assert known.packed is not None
    if (known.packed.source, known.packed.settings) != (
        index.fingerprint,
        _settings(index, options),
    ):
        raise InputError(
            f"{output} was packed from other videos or with other options: delete it, or choose "
            "another name"
        )
    return known


# ---- the work


def _fill(
    index: VideoIndex,
    videos: Sequence[int],
    spool: Spool,
    options: PackOptions,
    progress: Progress | None,
) -> dict[int, str]:
    """Pack what is not in the spool yet and return the reason for each video that failed."""
    known = {record.path for record, _ in spool.videos}
    wanted = [video for video in videos if index.paths[video] not in known]
    failed: dict[int, str] = {}
    limit = most_tolerated(len(videos))
    done = len(videos) - len(wanted)
    for video, result in _encode_all(index, wanted, options):
        done += 1
        if isinstance(result, TaskFailure):
            failed[video] = result.reason
        else:
            spool.append(index.paths[video], *result)
        if progress is not None:
            progress(done, len(videos), len(failed))
        if len(failed) > limit:
            raise FailureError(
                f"{len(failed)} videos failed, more than {limit} are not tolerated (the last, "
                f"{index.path(video)}: {failed[video]}): mend or leave them out and start again; "
                "what is packed is kept"
            )
    return failed


def _encode_all(
    index: VideoIndex, videos: list[int], options: PackOptions
) -> Iterator[tuple[int, Any]]:
    if not videos:
        return
    workers = min(options.num_workers or available_cpus(), len(videos))
    with ProcessPool(
        "fastdual.loaders.pack.transcode:pack_task",
        num_workers=workers,
        timeout_seconds=options.timeout_seconds,
        setup=(options.transcoding,),
    ) as pool:
        tasks = ((index.source(v), index.video(v), index.frame_order(v)) for v in videos)
        results = pool.imap(tasks, window=2 * workers)
        for video, (_, result) in zip(videos, results, strict=True):
            yield video, result


def _finish(index: VideoIndex, spool: Spool, options: PackOptions, failed: dict[int, str]) -> None:
    """Turn the spools into packs; the manifest of several shards comes last."""
    if not spool.videos:
        video, reason = next(iter(failed.items()))
        raise FailureError(f"no video could be packed (the first, {index.path(video)}: {reason})")
    numbers = {path: video for video, path in enumerate(index.paths)}
    packed = sorted((numbers[record.path], record, place) for record, place in spool.videos)
    rows = [(video, record.of_pack(index.video(video)), place) for video, record, place in packed]
    settings = _settings(index, options)
    shards = []
    for number, length in enumerate(spool.shard_lengths):
        final = spool.shard_file(number)
        if not final.exists():
            part = [(v, known, (0, place[1])) for v, known, place in rows if place[0] == number]
            quarantine = failed if options.shard_bytes is None else {}
            shard = Shard(final, spool.start, length, "")
            contents = assemble(index, part, quarantine, (shard,), settings)
            pack_file.finish(spool.spool_file(number), final, contents)
        shards.append(pack_file.read_shard(final))
    if options.shard_bytes is not None:
        manifest = assemble(index, rows, failed, tuple(shards), settings)
        pack_file.write_manifest(spool.output, manifest)


def hardware_warning(index: VideoIndex, transcoding: Transcoding | None) -> str | None:
    """Say how many videos of a pack NVDEC would refuse, and why; None if it takes them all.

    Args:
        index: What is to be packed.
        transcoding: How; None keeps the bytes as they are.
    """
    if transcoding is not None:
        videos = map(index.video, range(len(index)))
        sizes = [transcoding.output_size(video.size, video.rotation) for video in videos]
        codecs = (transcoding.codec,) * len(index)
        index = replace(index, size=np.array(sizes, np.int32), codecs=codecs)
    reasons = [why_not_kind("nvdec", kind) for kind in kinds_of(index)]
    refused = [reason for reason in reasons if reason is not None]
    if not refused:
        return None
    is_h264 = transcoding is not None and transcoding.codec == "h264"
    remedy = "--size can make them larger" if is_h264 else "--codec h264 takes almost every size"
    return (
        f"{len(refused):,} of {len(index):,} videos would be decoded by PyAV even on a GPU: "
        f"{refused[0]}; {remedy}"
    )
