"""Where decoding of a video may start: its seek table."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Keyframes:
    """K keyframes after the first one, whose seeks the index has tried.

    Attributes:
        frames: [K] int64 frame numbers, increasing.
        pts: [K] int64 time to seek to, in the stream's time base.
        offsets: [K] int64 byte position of the keyframe's packet: tells whether a seek arrived.
    """

    frames: NDArray[np.int64]
    pts: NDArray[np.int64]
    offsets: NDArray[np.int64]
