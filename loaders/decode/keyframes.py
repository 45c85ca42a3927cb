"""The seek table of a video: where decoding may start."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Keyframes:
    """K keyframes after the first one, each a place where decoding may start.

    In a video whose index has tried the seeks to frames 6 and 12 (`K`: keyframe, `.`: other)

        frame    0  1  2  3  4  5  6  7  8  9 10 11 12 13 14
                 K  .  .  .  .  .  K  .  .  .  .  .  K  .  .

    the table is frames [6, 12], with the pts and the byte offset of those two packets. To read
    frame 14, a reader seeks to frame 12 and decodes 3 frames instead of 15.

    Attributes:
        frames: [K] int64 frame numbers, increasing.
        pts: [K] int64 time to seek to, in the stream's time base.
        offsets: [K] int64 byte position of the keyframe's packet: tells whether a seek arrived.
    """

    frames: NDArray[np.int64]
    pts: NDArray[np.int64]
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, lists: Any) -> Self:
        """Return the table of three lists (frames, pts, offsets), such as `to_lists` returns."""
        return cls(*np.array(lists, np.int64).reshape(3, -1))

    def to_lists(self) -> list[list[int]]:
        """Return frames, pts and offsets as plain values, for a line of JSON."""
        return [self.frames.tolist(), self.pts.tolist(), self.offsets.tolist()]
