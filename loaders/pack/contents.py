"""The index of a pack: that of what was packed, with what was learned about the new bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fastdual.loaders.index.places import Packed, Shard
from fastdual.loaders.index.table import VideoIndex
from fastdual.loaders.pack.spool import Record

Row = tuple[int, Record, tuple[int, int]]
"""Number in the source, what was packed, (shard number, offset)."""


def assemble(
    index: VideoIndex,
    rows: Sequence[Row],
    failed: dict[int, str],
    shards: tuple[Shard, ...],
    settings: str,
) -> VideoIndex:
    """Return the index of a pack.

    Args:
        index: What was packed.
        rows: Its videos in the order of the index, and where they lie in `shards`.
        failed: Number and reason of the videos that could not be packed.
        shards: The files with the bytes.
        settings: How it was packed, as JSON.
    """
    videos = np.array([video for video, _, _ in rows], np.int64)
    packed = Packed(
        shards=shards,
        shard_numbers=np.array([place[0] for _, _, place in rows], np.int32),
        offsets=np.array([place[1] for _, _, place in rows], np.int64),
        source=index.fingerprint,
        settings=settings,
    )
    chosen = select(index, videos, failed)
    if rows and rows[0][1].facts is not None:
        chosen = _with_facts(chosen, [record.facts or {} for _, record, _ in rows])
    lengths = np.array([record.length for _, record, _ in rows], np.int64)
    digests = b"".join(bytes.fromhex(record.sha256) for _, record, _ in rows)
    sha256 = np.frombuffer(digests, np.uint8).reshape(-1, 32)
    return replace(chosen, file_bytes=lengths, sha256=sha256, packed=packed)


def _with_facts(index: VideoIndex, facts: Sequence[dict[str, Any]]) -> VideoIndex:
    tables = [np.array(known["keyframes"], np.int64).reshape(3, -1) for known in facts]
    joined = np.concatenate(tables, axis=1)
    return replace(
        index,
        size=np.array([known["size"] for known in facts], np.int32),
        rotation=np.zeros(len(facts), np.int16),
        codecs=tuple(known["codec"] for known in facts),
        keyframe_offsets=np.cumsum([0, *(table.shape[1] for table in tables)], dtype=np.int64),
        keyframe_frames=joined[0].copy(),
        keyframe_pts=joined[1].copy(),
        keyframe_bytes=joined[2].copy(),
    )


def select(index: VideoIndex, videos: Any, failed: dict[int, str]) -> VideoIndex:
    """Return the index of some videos (sorted numbers); `failed` ones join the quarantine."""
    counts = np.diff(index.keyframe_offsets)
    keyframes = np.repeat(np.isin(np.arange(len(index)), videos), counts)
    new_numbers = np.full(len(index), -1, np.int64)
    new_numbers[videos] = np.arange(len(videos))
    splits = {name: new_numbers[numbers] for name, numbers in index.splits.items()}
    bad = sorted(failed)
    stamps = np.stack([index.file_bytes[bad], index.modified_ns[bad]], axis=1)
    rows = ("num_frames", "fps", "size", "rotation", "duration_seconds")
    more_rows = ("file_bytes", "modified_ns", "sha256", "labels")
    tables = ("keyframe_frames", "keyframe_pts", "keyframe_bytes")
    return replace(
        index,
        paths=tuple(index.paths[video] for video in videos),
        codecs=tuple(index.codecs[video] for video in videos),
        groups=tuple(index.groups[video] for video in videos),
        splits={name: numbers[numbers >= 0] for name, numbers in splits.items()},
        keyframe_offsets=np.cumsum([0, *counts[videos]], dtype=np.int64),
        quarantine=index.quarantine + tuple((index.paths[video], failed[video]) for video in bad),
        quarantine_stamps=np.concatenate([index.quarantine_stamps, stamps]),
        packed=None,
        **{name: getattr(index, name)[videos] for name in (*rows, *more_rows)},
        **{name: getattr(index, name)[keyframes] for name in tables},
    )
