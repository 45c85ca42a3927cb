"""Where the videos of a pack lie: in its shards, each a run of bytes."""

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Shard:
    """A file of a pack as the pack's tables describe it.

    Attributes:
        file: Where it lies.
        start, length: The bytes of its encoded videos.
        digest: Checksum (hex) of its own tables: tells this shard from another of the same name.
    """

    file: Path
    start: int
    length: int
    digest: str


@dataclass(frozen=True, eq=False)
class Packed:
    """Where the N videos of a pack lie; their lengths are the index's `file_bytes`.

    Attributes:
        shards: The files with the encoded videos: the pack itself, or its shards.
        shard_numbers: [N] int32.
        offsets: [N] int64, from the shard's `start`.
        source: Fingerprint of the index that was packed.
        settings: How it was packed, as JSON.
    """

    shards: tuple[Shard, ...]
    shard_numbers: NDArray[np.int32]
    offsets: NDArray[np.int64]
    source: str
    settings: str

    @cached_property
    def frame_stride(self) -> int:
        """Return the stride whose phases the videos are ordered by (`FrameOrder`); 1 for none."""
        return frame_stride(self.settings)

    def place(self, video: int) -> tuple[Path, int]:
        """Return the file in which a video lies, and its first byte there."""
        shard = self.shards[self.shard_numbers[video]]
        return shard.file, shard.start + int(self.offsets[video])

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Return the places of some videos (`rows`: their numbers)."""
        numbers, offsets = self.shard_numbers[rows], self.offsets[rows]
        return replace(self, shard_numbers=numbers, offsets=offsets)

    def fits(self, lengths: NDArray[np.int64]) -> bool:
        """Say whether every video lies inside its shard, in a table of the right shape."""
        count = len(lengths)
        for array, dtype, shape in (
            (self.shard_numbers, "i4", (count,)),
            (self.offsets, "i8", (count,)),
        ):
            if array.dtype != dtype or array.shape != shape:
                return False
        numbers, offsets = self.shard_numbers, self.offsets
        if np.any(numbers < 0) or np.any(numbers >= len(self.shards)):
            return False
        room: Any = np.array([shard.length for shard in self.shards], np.int64)[numbers]
        inside = (lengths > 0) & (offsets >= 0) & (offsets <= room) & (lengths <= room - offsets)
        return bool(np.all(inside))


def frame_stride(settings: str) -> int:
    """Return the stride of a pack's settings; those that state none keep the shown order."""
    try:
        return int(json.loads(settings).get("frame_stride", 1))
    except (ValueError, AttributeError):  # reading such a pack refuses it
        return 1
