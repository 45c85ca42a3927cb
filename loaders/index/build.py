"""Building an index: list the videos, probe each in a worker process, write the file."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastdual.errors import FailureError, InputError, why_not_written
from fastdual.loaders.decode.keyframes import Keyframes
from fastdual.loaders.index import file as index_file
from fastdual.loaders.index.paths import refuse_folder
from fastdual.loaders.index.probe import PROBED_BY, Probe
from fastdual.loaders.index.sources import Entry, Kind, Listing, list_videos, refuse_shared_groups
from fastdual.loaders.index.table import VideoIndex
from fastdual.loaders.pool import ProcessPool, TaskFailure

PROBE_TASK = "fastdual.loaders.index.probe:probe_file"
TIMEOUT_SECONDS = 300.0  # a two-hour film at 1080p; raise it for longer ones
Progress = Callable[[int, int, int], None]
"""Called with (videos done, videos in all, videos quarantined)."""

_MISSING = "the file is missing"
_TEMPORARY = ("took longer than", "crashed its worker")  # worth another try next time


@dataclass(frozen=True)
class _Outcome:
    """What is known of one file: its probe, or why it cannot be used."""

    bytes: int
    modified_ns: int
    probe: Probe | None
    reason: str = ""


def build_index(
    source: Path,
    output: Path,
    *,
    kind: Kind = "auto",
    root: Path | None = None,
    annotations: Path | None = None,
    allow_shared_groups: bool = False,
    num_workers: int | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
    progress: Progress | None = None,
) -> VideoIndex:
    """Probe every video of a data set and write its index.

    What has been found out is kept in OUTPUT.partial until the index is written, so that a build
    that was stopped goes on where it was. Files that an existing OUTPUT knows and that have not
    changed since are not probed again.

    Args:
        source, kind, root, annotations: See `sources.list_videos`.
        output: The index file.
        allow_shared_groups: Accept splits with one group on both sides.
        num_workers: Worker processes; default: one a core.
        timeout_seconds: For each video; it is quarantined when it takes longer.
        progress: Told after every video.

    Raises:
        InputError: The source cannot be used, or holds no usable video.
        FailureError: The index cannot be written, or workers cannot be started.
    """
    listing = list_videos(source, kind=kind, root=root, annotations=annotations)
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
    """`build_index` for a data set that has been listed already."""
    output = Path(output)
    _refuse_to_overwrite(output)
    partial = output.with_name(f"{output.name}.partial")
    known = _known_from_index(output, listing.root) | _known_from_partial(partial, listing.root)
    outcomes: dict[str, _Outcome] = {}
    failed = 0
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "a", encoding="utf-8", errors="surrogateescape") as file:
            for path, outcome, is_new in _probe_all(listing, known, num_workers, timeout_seconds):
                outcomes[path] = outcome
                failed += outcome.probe is None
                if is_new:
                    file.write(_to_line(listing.root, path, outcome))
                    file.flush()
                if progress is not None:
                    progress(len(outcomes), len(listing.entries), failed)
    except OSError as error:
        raise FailureError(f"cannot write {partial}: {why_not_written(error)}") from error
    try:
        index = _assemble(listing, outcomes)
    except InputError:
        partial.unlink(missing_ok=True)  # nothing in it is of use
        raise
    index.save(output)
    partial.unlink(missing_ok=True)
    return index


def _refuse_to_overwrite(output: Path) -> None:
    """An index may take the place of an index, but not of a pack, a video or whatever else."""
    refuse_folder(output, "videos.h5")
    if output.exists() and output.stat().st_size and not index_file.is_index(output):
        raise InputError(f"{output} exists and is no index: delete it, or choose another name")


def _probe_all(
    listing: Listing, known: dict[str, _Outcome], num_workers: int | None, timeout_seconds: float
) -> Iterator[tuple[str, _Outcome, bool]]:
    """Yield (path, outcome, whether it is new), known ones first."""
    wanted: list[tuple[str, int, int]] = []
    for entry in listing.entries:
        try:
            status = os.stat(listing.root / entry.path)
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            reason = _MISSING if missing else f"cannot be read: {error.strerror}"
            yield entry.path, _Outcome(0, 0, None, reason), False
            continue
        stamp = (status.st_size, status.st_mtime_ns)
        before = known.get(entry.path)
        if before is not None and (before.bytes, before.modified_ns) == stamp:
            yield entry.path, before, False
        else:
            wanted.append((entry.path, *stamp))
    if not wanted:
        return
    workers = min(num_workers or os.cpu_count() or 1, len(wanted))
    with ProcessPool(PROBE_TASK, num_workers=workers, timeout_seconds=timeout_seconds) as pool:
        tasks = [listing.root / path for path, _, _ in wanted]
        results = pool.imap(tasks, window=4 * workers)
        for (path, size, modified), (_, result) in zip(wanted, results, strict=True):
            if isinstance(result, TaskFailure):
                yield path, _Outcome(size, modified, None, result.reason), True
            else:
                yield path, _Outcome(size, modified, result), True


def _assemble(listing: Listing, outcomes: dict[str, _Outcome]) -> VideoIndex:
    pairs = [(entry, outcomes[entry.path]) for entry in listing.entries]
    usable = [(entry, known, known.probe) for entry, known in pairs if known.probe is not None]
    bad = [(entry, known) for entry, known in pairs if known.probe is None]
    if not usable:
        path, reason = bad[0][0].path, bad[0][1].reason
        missing = reason == _MISSING
        hint = "is --root the folder that they are under?" if missing else "encode them anew"
        raise InputError(
            f"none of the {len(bad)} videos under {listing.root} can be used (the first, {path}: "
            f"{reason}): {hint}"
        )
    entries, probes = [entry for entry, _, _ in usable], [probe for _, _, probe in usable]
    numbers = {name: number for number, name in enumerate(listing.class_names)}
    tables = [probe.keyframes for probe in probes]
    return VideoIndex(
        root=listing.root,
        paths=tuple(entry.path for entry in entries),
        num_frames=np.array([probe.num_frames for probe in probes], np.int64),
        fps=np.array([probe.fps for probe in probes], np.int64),
        size=np.array([probe.size for probe in probes], np.int32),
        rotation=np.array([probe.rotation for probe in probes], np.int16),
        codecs=tuple(probe.codec for probe in probes),
        duration_seconds=np.array([probe.duration_seconds for probe in probes], np.float64),
        file_bytes=np.array([known.bytes for _, known, _ in usable], np.int64),
        modified_ns=np.array([known.modified_ns for _, known, _ in usable], np.int64),
        sha256=np.frombuffer(
            b"".join(bytes.fromhex(probe.sha256) for probe in probes), np.uint8
        ).reshape(-1, 32),
        keyframe_offsets=np.cumsum([0, *(len(table.frames) for table in tables)], dtype=np.int64),
        keyframe_frames=np.concatenate([table.frames for table in tables]),
        keyframe_pts=np.concatenate([table.pts for table in tables]),
        keyframe_bytes=np.concatenate([table.offsets for table in tables]),
        labels=np.array([numbers.get(entry.label or "", -1) for entry in entries], np.int32),
        class_names=listing.class_names,
        groups=tuple(entry.group for entry in entries),
        splits=_splits(listing, entries),
        quarantine=tuple((entry.path, known.reason) for entry, known in bad),
        quarantine_stamps=np.array(
            [(known.bytes, known.modified_ns) for _, known in bad], np.int64
        ).reshape(-1, 2),
        probed_by=PROBED_BY,
    )


def _splits(listing: Listing, usable: Sequence[Entry]) -> dict[str, Any]:
    """The numbers of each split's videos; none where all of a split are quarantined."""
    members: dict[str, list[int]] = {name: [] for entry in listing.entries for name in entry.splits}
    for number, entry in enumerate(usable):
        for split in entry.splits:
            members[split].append(number)
    return {name: np.array(members[name], np.int64) for name in sorted(members)}


# ---- what an earlier build found out


def _known_from_index(output: Path, root: Path) -> dict[str, _Outcome]:
    if not output.exists():
        return {}
    try:
        index = VideoIndex.load(output)
    except InputError:
        return {}  # it is about to be replaced
    if not _is_same(index.root, root) or index.probed_by != PROBED_BY:
        return {}
    return known_outcomes(index)


def _is_same(folder: Path, other: Path) -> bool:
    """Say whether two paths lead to one folder, such as "videos" and "runs/../videos"."""
    try:
        return folder == other or folder.samefile(other)
    except OSError:
        return False


def known_outcomes(index: VideoIndex) -> dict[str, _Outcome]:
    """Turn an index back into what was found out about each file."""
    known = {}
    for video, path in enumerate(index.paths):
        probe = Probe(
            num_frames=int(index.num_frames[video]),
            fps=(int(index.fps[video, 0]), int(index.fps[video, 1])),
            size=(int(index.size[video, 0]), int(index.size[video, 1])),
            rotation=int(index.rotation[video]),
            codec=index.codecs[video],
            duration_seconds=float(index.duration_seconds[video]),
            keyframes=index.keyframes(video) or Keyframes(*np.zeros((3, 0), np.int64)),
            sha256=index.sha256[video].tobytes().hex(),
        )
        size, modified = int(index.file_bytes[video]), int(index.modified_ns[video])
        known[path] = _Outcome(size, modified, probe)
    stamps = index.quarantine_stamps.tolist()
    for (path, reason), (size, modified) in zip(index.quarantine, stamps, strict=True):
        if not reason.startswith(_TEMPORARY):
            known[path] = _Outcome(size, modified, None, reason)
    return known


def _to_line(root: Path, path: str, outcome: _Outcome) -> str:
    record: dict[str, Any] = {
        "by": PROBED_BY,
        "root": str(root),
        "path": path,
        "stamp": [outcome.bytes, outcome.modified_ns],
        "reason": outcome.reason,
    }
    if outcome.probe is not None:
        table = outcome.probe.keyframes
        record["probe"] = {
            **vars(outcome.probe),
            "keyframes": [table.frames.tolist(), table.pts.tolist(), table.offsets.tolist()],
        }
    return json.dumps(record) + "\n"


def _known_from_partial(partial: Path, root: Path) -> dict[str, _Outcome]:
    known: dict[str, _Outcome] = {}
    if not partial.exists():
        return known
    is_ours = functools.cache(lambda folder: _is_same(Path(folder), root))
    for line in partial.read_text(encoding="utf-8", errors="surrogateescape").split("\n"):
        try:
            record = json.loads(line)
            if record["by"] == PROBED_BY and is_ours(record["root"]):
                known[record["path"]] = _from_record(record)
        except (ValueError, KeyError, TypeError):
            continue  # the last line of a build that was killed may be torn
    return known


def _from_record(record: dict[str, Any]) -> _Outcome:
    size, modified = record["stamp"]
    fields = record.get("probe")
    if fields is None:
        return _Outcome(size, modified, None, record["reason"])
    table = Keyframes(*np.array(fields["keyframes"], np.int64).reshape(3, -1))
    (height, width), (numerator, denominator) = fields["size"], fields["fps"]
    fields |= {"keyframes": table, "size": (height, width), "fps": (numerator, denominator)}
    return _Outcome(size, modified, Probe(**fields))
