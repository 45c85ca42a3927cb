"""The index of a set of videos: opened, whatever the user named; verified; described."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from fastdual.errors import InputError, printable, shown
from fastdual.loaders.files import lock, regular
from fastdual.loaders.index.build import (
    EXAMINE_TASK,
    TIMEOUT_SECONDS,
    Progress,
    build_from_listing,
    index_files,
)
from fastdual.loaders.index.file import check_files, is_index, load_index
from fastdual.loaders.index.listing import refuse_shared_groups
from fastdual.loaders.index.missing import refuse_many_missing, without_missing
from fastdual.loaders.index.pack_file import is_pack
from fastdual.loaders.index.paths import cache_folder, is_video
from fastdual.loaders.index.sources import list_videos, local_folder
from fastdual.loaders.index.table import VideoIndex
from fastdual.loaders.index.video import COLUMNS, KEYFRAMES, Video
from fastdual.loaders.pool import ProcessPool, TaskFailure
from fastdual.loaders.pool.cpus import available_cpus

_SHOWN_REASONS = 20
# What an index knows of a video from elsewhere; its checksum is compared when it is opened.
_NOT_IN_BYTES = {"path", "label", "group", "file_bytes", "modified_ns", "sha256"}


def open_index(
    data: Path,
    *,
    root: Path | None = None,
    num_workers: int | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
    progress: Progress | None = None,
    allow_missing: bool = True,
) -> VideoIndex:
    """Return the index of DATA: an index file or a pack, or a folder, list or video, read now.

    The index of a folder is kept in the user's cache; the next time only files that are new or
    changed are examined. Several processes may ask at once: one builds, the others wait for it.

    Args:
        data: Index file, pack, folder of videos, list of videos, or one video; or an address of
            object storage, as s3://bucket/videos.
        root: Folder of the videos, if they were moved away from where the index says; for a pack,
            the folder of its shards.
        num_workers, timeout_seconds, progress: See `build_index`.
        allow_missing: Whether more than a tenth of the videos may be unusable. Those that are lie
            in the `quarantine` of the result, files of an index that are gone too.

    Raises:
        InputError: DATA is missing or unusable, or too many videos are.
    """
    data = local_folder(Path(data))
    if not data.exists():
        raise InputError(f"{data} does not exist: name an index, a pack or a folder of videos")
    if data.is_file() and is_video(data):
        return index_files([data], num_workers=num_workers, timeout_seconds=timeout_seconds)
    if _is_made_by_us(data):
        index = load_index(data, root=root)
        if index.packed is not None:
            check_files(index)
        else:
            index = without_missing(index, data)
    else:
        index = _indexed_now(data, root, num_workers, timeout_seconds, progress)
    if not allow_missing:
        refuse_many_missing(index, data)
    return index


def _indexed_now(
    data: Path,
    root: Path | None,
    num_workers: int | None,
    timeout_seconds: float,
    progress: Progress | None,
) -> VideoIndex:
    """Bring the cached index of a folder or a list up to date."""
    listing = list_videos(data, root=root)
    refuse_shared_groups(listing)
    place = f"{os.path.realpath(data)}\0{os.path.realpath(listing.root)}"
    key = hashlib.sha256(os.fsencode(place)).hexdigest()[:24]
    cached = cache_folder("indexes") / f"{key}.h5"
    with _locked(cached.with_suffix(".lock")):
        return build_from_listing(listing, cached, num_workers, timeout_seconds, progress)


def _is_made_by_us(data: Path) -> bool:
    """Say whether a file is, or ought to be, an index or a pack; others are lists and videos."""
    return is_index(data) or is_pack(data) or data.suffix.lower() in (".h5", ".hdf5")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    # A link there would lead to a file of the user's.
    with open(path, "a", opener=regular) as file:
        lock(file, wait=True)
        yield


def verify_index(
    index: VideoIndex,
    *,
    num_workers: int | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
    progress: Progress | None = None,
) -> tuple[tuple[str, str], ...]:
    """Decode every video of an index again and compare.

    Args:
        index: That of files or of a pack.
        num_workers, timeout_seconds, progress: See `build_index`.

    Returns:
        (path, what is wrong) of each video that is not as the index says; empty if all are.
    """
    workers = min(num_workers or available_cpus(), len(index))
    wrong: list[tuple[str, str]] = []
    with ProcessPool(EXAMINE_TASK, num_workers=workers, timeout_seconds=timeout_seconds) as pool:
        tasks = (index.source(video) for video in range(len(index)))
        for video, (_, found) in enumerate(pool.imap(tasks, window=4 * workers)):
            if isinstance(found, TaskFailure):
                wrong.append((index.paths[video], found.reason))
            elif difference := _difference(index, video, found):
                wrong.append((index.paths[video], difference))
            if progress is not None:
                progress(video + 1, len(index), len(wrong))
    return tuple(wrong)


def _difference(index: VideoIndex, video: int, found: Video) -> str:
    if found.num_frames != index.num_frames[video]:
        return f"has {found.num_frames} frames, the index says {index.num_frames[video]}"
    if list(found.size) != index.size[video].tolist():
        return "has another frame size than the index says"
    if found.rotation != index.rotation[video]:
        return f"is rotated by {found.rotation}, the index says {index.rotation[video]} degrees"
    table = index.keyframes(video)
    if table is not None and not np.array_equal(table.frames, found.keyframes.frames):
        return "has other keyframes than the index says"
    return "" if _is_encoded_anew(index) else _other_fact(index, video, found)


def _is_encoded_anew(index: VideoIndex) -> bool:
    """Say whether the index of a pack tells of its videos what their originals were."""
    return index.packed is not None and bool(json.loads(index.packed.settings)["transcoding"])


def _other_fact(index: VideoIndex, video: int, found: Video) -> str:
    """Return which of all other facts differs; an older index does not have all of them."""
    table = index.keyframes(video)
    for part in () if table is None else KEYFRAMES.values():
        if not np.array_equal(getattr(table, part), getattr(found.keyframes, part)):
            return f"has keyframes with other {part} than the index says"
    has_later = index.num_packets[video] > 0
    for column in COLUMNS:
        if column.attribute in _NOT_IN_BYTES or (column.later and not has_later):
            continue
        known = column.value(getattr(index, column.name), video)
        now = getattr(found, column.attribute)
        if now != known:
            what = column.attribute.replace("_", " ")
            return f"has {what} {shown(now)}, the index says {shown(known)}"
    return ""


def summary(index: VideoIndex) -> str:
    """Describe an index in a few lines of text."""
    frames, seconds = index.num_frames, float(index.duration_seconds.sum())
    sizes = Counter(f"{width}x{height}" for height, width in index.size.tolist())
    seekable = int((np.diff(index.keyframe_offsets) > 0).sum())
    others = len(index) - seekable
    slow = f" ({others:,} are decoded from their start: slow; fastdual pack mends it)"
    slow = "" if not others or index.packed is not None else slow
    lines = [
        f"videos      {len(index):,} under {index.root}",
        f"frames      {frames.sum():,} ({frames.min():,} to {frames.max():,} per video)",
        f"duration    {seconds / 3600:.2f} hours, {index.file_bytes.sum() / 1e6:,.1f} MB",
        f"codecs      {_counts(Counter(index.codecs))}",
        f"frame sizes {_counts(sizes)} (width x height)",
        f"seekable    {seekable:,}{slow}",
        f"rotated     {int((index.rotation != 0).sum()):,}",
        f"classes     {len(index.class_names):,} ({int((index.labels < 0).sum()):,} unlabelled)",
        f"groups      {len(set(index.groups) - {''}):,}",
        *(f"split       {name}: {len(videos):,}" for name, videos in index.splits.items()),
        *_packing(index),
        f"quarantined {len(index.quarantine):,}",
        *(f"  {path}: {reason}" for path, reason in index.quarantine[:_SHOWN_REASONS]),
    ]
    if len(index.quarantine) > _SHOWN_REASONS:
        lines.append(f"  ... and {len(index.quarantine) - _SHOWN_REASONS:,} more")
    return "\n".join(map(printable, lines))


def _packing(index: VideoIndex) -> list[str]:
    if index.packed is None:
        return []
    how = dict(json.loads(index.packed.settings)["transcoding"] or {})
    if how.get("size"):
        how["size"] = "{}x{} (height x width)".format(*how["size"])
    words = [f"{name.replace('_', ' ')} {value}" for name, value in how.items() if value]
    count = len(index.packed.shards)
    files = "1 file" if count == 1 else f"{count:,} files"
    return [f"packed      {', '.join(words) or 'as they were'}; in {files}"]


def _counts(counter: Counter[str]) -> str:
    shown = [f"{name} {count:,}" for name, count in counter.most_common(5)]
    more = len(counter) - len(shown)
    return ", ".join(shown) + (f", {more} more" if more > 0 else "")
