"""Decoded frames (av.VideoFrame) to upright RGB planes."""

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray


def clockwise_rotation(frame: Any) -> int:
    """Return the degrees (0, 90, 180, 270) to turn a decoded frame clockwise to be upright."""
    return int(round(-frame.rotation / 90)) % 4 * 90


# libav's planes of "gbrp", in the order red, green, blue. Its conversion to pixels side by side
# ("rgb24") takes two to three times as long for the same picture (a few pixels differ by one).
_PLANES = (2, 0, 1)


class FrameWriter:
    """Converts decoded frames to upright RGB planes of one size, scaling in the same pass.

    The matrix (BT.601, 709, 2020) and range are those the file states, BT.601 limited where it
    states none, as in DALI and ffmpeg. Transfer functions are left as they are: HDR looks flat.

    Args:
        size: (height, width) of the upright picture.
        rotation: Clockwise turn of the decoded frame, in degrees.
    """

    def __init__(self, size: tuple[int, int], rotation: int) -> None:
        from av.video.reformatter import Interpolation, VideoReformatter

        self._height, self._width = size if rotation % 180 == 0 else size[::-1]
        self._turns = -rotation // 90
        self._scaler = VideoReformatter()
        # Bilinear in swscale widens its filter with the scale (antialiasing), as DALI's linear
        # resize does. Without full chroma interpolation, frames scaled to an even width come out
        # 1.5 of 255 too dark.
        self._scaling = Interpolation.BILINEAR | Interpolation.ACCURATE_RND
        self._scaling |= Interpolation.FULL_CHR_H_INT

    def write(self, frame: Any, out: NDArray[np.uint8]) -> None:
        """Convert one frame (av.VideoFrame) into `out` [3, h, w] uint8."""
        picture = self._scaler.reformat(
            frame,
            width=self._width,
            height=self._height,
            format="gbrp",
            interpolation=self._scaling,
            threads=1,
        )
        planes = picture.planes
        for target, number in zip(out, _PLANES, strict=True):
            plane = planes[number]
            rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
            pixels = rows[: self._height, : self._width]
            target[...] = np.rot90(pixels, self._turns) if self._turns else pixels


def interleave(planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return planes [..., 3, h, w] (uint8) as pixels [..., h, w, 3]."""
    pixels = np.empty((*planes.shape[:-3], *planes.shape[-2:], 3), np.uint8)
    for channel in range(3):
        pixels[..., channel] = planes[..., channel, :, :]
    return pixels


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Return pixels [h, w, 3] as a PNG file."""
    import av

    context: Any = av.CodecContext.create("png", "w")
    context.height, context.width, context.pix_fmt = *pixels.shape[:2], "rgb24"
    context.time_base = Fraction(1)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    packets = [*context.encode(frame), *context.encode(None)]
    return b"".join(bytes(packet) for packet in packets)
