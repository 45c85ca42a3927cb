"""Building an index: list the videos, examine each in a worker process, write the file."""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fastdual.errors import InputError
from fastdual.loaders.decode.keyframes import Keyframes
from fastdual.loaders.files import append_line, check_place, make_folder_of, read_lines
from fastdual.loaders.index.file import is_index, load_index, save_index
from fastdual.loaders.index.listing import Entry, Listing, refuse_shared_groups
from fastdual.loaders.index.lists import Columns
from fastdual.loaders.index.sources import Kind, list_videos
from fastdual.loaders.index.table import VideoIndex
from fastdual.loaders.index.video import Video
from fastdual.loaders.pool import ProcessPool, TaskFailure
from fastdual.loaders.pool.cpus import available_cpus
from fastdual.loaders.remote import stat

EXAMINE_TASK = "fastdual.loaders.index.probe:examine_file"
TIMEOUT_SECONDS = 300.0  # a two-hour film at 1080p; raise it for longer ones
Progress = Callable[[int, int, int], None]
"""Called with (videos done, videos in all, videos that failed)."""

_MISSING = "the file is missing"


@dataclass(frozen=True)
class _Unusable:
    """A file that cannot be used, as it was when it was examined, and why."""

    file_bytes: int
    modified_ns: int
    reason: str


_Finding = Video | _Unusable


def build_index(
    source: Path,
    output: Path,
    *,
    kind: Kind = "auto",
    root: Path | None = None,
    annotations: Path | None = None,
    columns: Columns | None = None,
    allow_shared_groups: bool = False,
    num_workers: int | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
    progress: Progress | None = None,
) -> VideoIndex:
    """Examine every video of a data set and write its index.

    What has been found out is kept in OUTPUT.partial until the index is written, so that a build
    that was stopped continues where it was. Files that an existing OUTPUT knows and that have not
    changed since are not examined again.

    Args:
        source, kind, root, annotations, columns: See `sources.list_videos`.
        output: The index file.
        allow_shared_groups: Accept splits with one group on both sides.
        num_workers: Worker processes; default: one per core.
        timeout_seconds: For each video; it is quarantined when it takes longer.
        progress: Told after every video that is examined; what is known already is not.

    Raises:
        InputError: The source cannot be used, or holds no usable video.
        FailureError: The index cannot be written, or workers cannot be started.
    """
    listing = list_videos(source, kind=kind, root=root, annotations=annotations, columns=columns)
    if not allow_shared_groups:
        refuse_shared_groups(listing)
    return build_from_listing(listing, output, num_workers, timeout_seconds, progress)


def build_from_listing(
    listing: Listing,
    output: Path,
    num_workers: int | None,
    timeout_seconds: float,
    progress: Progress | None,
) -> VideoIndex:
    """Do what `build_index` does for a data set that has been listed already."""
    output = Path(output)
    _refuse_to_overwrite(output)
    make_folder_of(output, "the index")
    journal = output.with_name(f"{output.name}.partial")
    known = _known_from_index(output, listing.root) | _known_from_journal(journal, listing.root)
    findings: dict[str, _Finding] = {}
    failed = 0
    for path, finding, is_new in _examine_all(listing, known, num_workers, timeout_seconds):
        findings[path] = finding
        failed += isinstance(finding, _Unusable)
        if is_new:
            append_line(journal, _to_record(listing.root, path, finding), "the unfinished index")
        if is_new and progress is not None:
            progress(len(findings), len(listing.entries), failed)
    try:
        index = _assemble(listing, findings)
    except InputError:
        journal.unlink(missing_ok=True)  # nothing in it is of use
        raise
    save_index(index, output)
    journal.unlink(missing_ok=True)
    return index


def index_files(
    files: Sequence[Path],
    *,
    num_workers: int | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> VideoIndex:
    """Examine some videos and return their index, which is not written anywhere.

    Args:
        files: At least one, in any order.
        num_workers, timeout_seconds: See `build_index`.

    Raises:
        InputError: One cannot be used; names it and the reason.
    """
    paths = sorted({Path(file).absolute() for file in files})
    root = Path(os.path.commonpath([path.parent for path in paths]))
    listing = Listing(root, [Entry(str(path.relative_to(root))) for path in paths], ())
    findings: dict[str, _Finding] = {}
    for path, finding, _ in _examine_all(listing, {}, num_workers, timeout_seconds):
        if isinstance(finding, _Unusable):
            raise InputError(f"{root / path}: {finding.reason}")
        findings[path] = finding
    return _assemble(listing, findings)


def _refuse_to_overwrite(output: Path) -> None:
    """An index may take the place of an index, but not of a pack, a video or whatever else."""
    check_place(output, "the index")
    if output.exists() and output.stat().st_size and not is_index(output):
        raise InputError(f"{output} exists and is not an index: delete it, or choose another name")


@functools.cache
def _probed_by() -> str:
    from fastdual.loaders.index.probe import probed_by  # slow to load

    return probed_by()


def _examine_all(
    listing: Listing, known: dict[str, _Finding], num_workers: int | None, timeout_seconds: float
) -> Iterator[tuple[str, _Finding, bool]]:
    """Yield (path, finding, whether it is new), known ones first."""
    wanted: list[tuple[str, int, int]] = []
    for entry in listing.entries:
        try:
            stamp = stat(listing.root / entry.path)
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            reason = _MISSING if missing else f"cannot be read: {error.strerror}"
            yield entry.path, _Unusable(0, 0, reason), False
            continue
        before = known.get(entry.path)
        if before is not None and (before.file_bytes, before.modified_ns) == stamp:
            yield entry.path, before, False
        else:
            wanted.append((entry.path, *stamp))
    if not wanted:
        return
    workers = min(num_workers or available_cpus(), len(wanted))
    with ProcessPool(EXAMINE_TASK, num_workers=workers, timeout_seconds=timeout_seconds) as pool:
        tasks = [listing.root / path for path, _, _ in wanted]
        results = pool.imap(tasks, window=4 * workers)
        for (path, size, modified), (_, result) in zip(wanted, results, strict=True):
            if isinstance(result, TaskFailure) and result.may_pass:
                # No file has this stamp: the next build asks again.
                yield path, _Unusable(0, 0, result.reason), False
            elif isinstance(result, TaskFailure):
                yield path, _Unusable(size, modified, result.reason), True
            else:
                yield path, replace(result, file_bytes=size, modified_ns=modified), True


def _assemble(listing: Listing, findings: dict[str, _Finding]) -> VideoIndex:
    """Put what is listed and what was found together.

    Raises:
        InputError: No video is usable; names the first one, the reason and the remedy.
    """
    numbers = {name: number for number, name in enumerate(listing.class_names)}
    videos: list[Video] = []
    bad: list[tuple[str, _Unusable]] = []
    splits: dict[str, list[int]] = {name: [] for e in listing.entries for name in sorted(e.splits)}
    for entry in listing.entries:
        finding = findings[entry.path]
        if isinstance(finding, _Unusable):
            bad.append((entry.path, finding))
            continue
        for split in entry.splits:
            splits[split].append(len(videos))
        label = numbers.get(entry.label or "", -1)
        videos.append(replace(finding, path=entry.path, label=label, group=entry.group))
    if not videos:
        (path, first), *_ = bad
        is_missing = first.reason == _MISSING
        hint = "is --root the folder that they are under?" if is_missing else "encode them again"
        raise InputError(
            f"none of the {len(bad)} videos under {listing.root} can be used (the first, {path}: "
            f"{first.reason}): {hint}"
        )
    stamps = [(finding.file_bytes, finding.modified_ns) for _, finding in bad]
    return VideoIndex.of(
        videos,
        root=listing.root,
        class_names=listing.class_names,
        splits={name: np.array(splits[name], np.int64) for name in sorted(splits)},
        quarantine=tuple((path, finding.reason) for path, finding in bad),
        quarantine_stamps=np.array(stamps, np.int64).reshape(-1, 2),
        probed_by=_probed_by(),
    )


# ---- what an earlier build found out


def _known_from_index(output: Path, root: Path) -> dict[str, _Finding]:
    if not output.exists():
        return {}
    try:
        index = load_index(output)
    except InputError:
        return {}  # it is about to be replaced
    if not _is_same(index.root, root) or index.probed_by != _probed_by():
        return {}
    known: dict[str, _Finding] = {path: index.video(v) for v, path in enumerate(index.paths)}
    stamps = index.quarantine_stamps.tolist()
    for (path, reason), (size, modified) in zip(index.quarantine, stamps, strict=True):
        known[path] = _Unusable(size, modified, reason)
    return known


def _is_same(folder: Path, other: Path) -> bool:
    """Say whether two paths lead to one folder, such as "videos" and "runs/../videos"."""
    try:
        return folder == other or folder.samefile(other)
    except OSError:
        return False


def _known_from_journal(journal: Path, root: Path) -> dict[str, _Finding]:
    known: dict[str, _Finding] = {}
    is_ours = functools.cache(lambda folder: _is_same(Path(folder), root))
    for record in read_lines(journal):
        try:
            if record["by"] == _probed_by() and is_ours(record["root"]):
                known[record["path"]] = _from_record(record)
        except (ValueError, KeyError, TypeError):
            continue  # not a line of this program
    return known


def _to_record(root: Path, path: str, finding: _Finding) -> dict[str, Any]:
    record: dict[str, Any] = {
        "by": _probed_by(),
        "root": str(root),
        "path": path,
        "stamp": [finding.file_bytes, finding.modified_ns],
    }
    if isinstance(finding, _Unusable):
        return {**record, "reason": finding.reason}
    plain = {"sha256": finding.sha256.hex(), "keyframes": finding.keyframes.to_lists()}
    return {**record, "probe": {**vars(finding), **plain}}


def _from_record(record: dict[str, Any]) -> _Finding:
    size, modified = record["stamp"]
    facts = record.get("probe")
    if facts is None:
        return _Unusable(size, modified, record["reason"])
    facts |= {"file_bytes": size, "modified_ns": modified, "sha256": bytes.fromhex(facts["sha256"])}
    facts |= {"keyframes": Keyframes.of(facts["keyframes"])}
    facts |= {name: tuple(facts[name]) for name in ("size", "fps")}
    return Video(**facts)
