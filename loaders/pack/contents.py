"""The index of a pack: that of what was packed, with what is known of the new bytes."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fastdual.loaders.index.places import Packed, Shard
from fastdual.loaders.index.table import VideoIndex
from fastdual.loaders.index.video import Video, columns_of

Row = tuple[int, Video, tuple[int, int]]
"""Number in the index that is packed, what the pack says of it, (shard number, offset)."""


def assemble(
    index: VideoIndex,
    rows: Sequence[Row],
    failed: dict[int, str],
    shards: tuple[Shard, ...],
    settings: str,
) -> VideoIndex:
    """Return the index of a pack.

    Args:
        index: The index that is packed.
        rows: Its videos in the order of the index, and where they lie in `shards`.
        failed: Number and reason of the videos that could not be packed; they are quarantined.
        shards: The files with the bytes.
        settings: How it was packed, as JSON.
    """
    packed = Packed(
        shards=shards,
        shard_numbers=np.array([place[0] for _, _, place in rows], np.int32),
        offsets=np.array([place[1] for _, _, place in rows], np.int64),
        source=index.fingerprint,
        settings=settings,
    )
    bad = sorted(failed)
    stamps = np.stack([index.file_bytes[bad], index.modified_ns[bad]], axis=1)
    return replace(
        index.take(np.array([number for number, _, _ in rows], np.int64)),
        **columns_of([video for _, video, _ in rows]),
        quarantine=index.quarantine + tuple((index.paths[video], failed[video]) for video in bad),
        quarantine_stamps=np.concatenate([index.quarantine_stamps, stamps]),
        packed=packed,
    )
