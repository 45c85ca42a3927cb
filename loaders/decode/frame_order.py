"""The order in which a video stores its frames: as they are shown, or by phase of a stride.

A clip at stride 4 wants every fourth frame. A pack made for it (`pack.transcode`) stores frames
0, 4, 8, ... as one chain, then 1, 5, 9, ..., so that the frames of a clip are neighbours and a
decoder decodes hardly any other. For 10 frames at stride 4:

    place    0  1  2  3  4  5  6  7  8  9
    frame    0  4  8  1  5  9  2  6  3  7

Everything that asks for frames speaks of frames; everything that decodes a stored video (seek
tables, decoders) speaks of places. `places_of` turns the one into the other, when a plan is about
to be decoded. A long video is cut into blocks, each ordered by itself: whoever packs it holds no
more than a block.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Frame = TypeVar("Frame")

MAX_STRIDE = 240  # seconds of video, whatever its rate: a typing error ends here
_BLOCK_PIXELS = 1 << 27  # 200 MB as 4:2:0; 1,500 frames of 340x256
_BLOCK_FRAMES = 1024


@dataclass(frozen=True)
class FrameOrder:
    """The stored order of one video.

    Attributes:
        num_frames: Of the video.
        stride: Distance of the frames that are neighbours; 1 keeps the order of showing.
        size: (height, width) of its pictures: it decides how long a block is.
    """

    num_frames: int
    stride: int
    size: tuple[int, int]

    @property
    def block(self) -> int:
        """Frames that are ordered by themselves: a multiple of the stride, never less than it."""
        height, width = self.size
        most = min(_BLOCK_FRAMES, _BLOCK_PIXELS // (height * width))
        return max(1, most // self.stride) * self.stride

    def places_of(self, frames: Ints) -> Ints:
        """Return the places of frames (any shape, each in [0, num_frames))."""
        block, inside = np.divmod(frames, self.block)
        length = np.minimum(self.num_frames - block * self.block, self.block)
        step, phase = np.divmod(inside, self.stride)
        # The first `length % stride` phases have one frame more than the others.
        before = phase * (length // self.stride) + np.minimum(phase, length % self.stride)
        places: Ints = block * self.block + before + step
        return places

    def frames(self) -> Ints:
        """Return the frames in the order in which they are stored, [num_frames]."""
        return np.argsort(self.places_of(np.arange(self.num_frames)))

    def starts(self, gop: int) -> Ints:
        """Return the places of keyframes: the first of each phase, and every `gop`-th after it."""
        frames = self.frames()
        step = frames % self.block // self.stride
        return np.flatnonzero(step % gop == 0)


def reorder(
    frames: Iterable[Frame], stored: Iterable[int], wanted: Iterable[int]
) -> Iterator[Frame]:
    """Yield frames that come in one order in another one, holding no more than is needed.

    Args:
        frames: Pictures.
        stored: Their numbers, in the order in which they come.
        wanted: The same numbers in the order in which they are yielded.
    """
    arriving = zip(stored, frames, strict=True)
    waiting: dict[int, Frame] = {}
    for number in wanted:
        while number not in waiting:
            arrived, frame = next(arriving)
            waiting[arrived] = frame
        yield waiting.pop(number)
