"""The wanted frames of a video as pictures, with as little decoding as possible."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdual.loaders.decode.keyframes import Keyframes
from fastdual.loaders.decode.picture import FrameWriter
from fastdual.loaders.decode.skipping import pick_skipping, skipping_pays
from fastdual.loaders.decode.video import (
    MIN_SEEK_FRAMES,
    OpenVideo,
    SeekError,
    Source,
    VideoError,
    decode_all,
    decode_from,
    open_video,
)


def read_planes(
    source: Source,
    frames: NDArray[np.int64],
    *,
    keyframes: Keyframes | None = None,
    size: tuple[int, int] | None = None,
    rotation: int = 0,
    num_frames: int | None = None,
) -> NDArray[np.uint8]:
    """Decode the wanted frames of a video, and as few others as possible.

    Args:
        source: A file, or its bytes.
        frames: [F] int64 frame numbers, strictly increasing.
        keyframes: The video's seek table; None decodes from the start.
        size: (height, width) of the upright result; None keeps the size of the first frame.
        rotation: Clockwise turn that makes the picture upright, in degrees.
        num_frames: Frames of the whole video, which allow unwanted ones to be skipped. Give it only
            for contents that are known to decode cleanly: damage in what is skipped is not noticed.

    Returns:
        [F, 3, h, w] uint8 RGB.

    Raises:
        ValueError: The frame numbers are not as stated.
        VideoError: The video cannot be decoded, or has fewer frames than wanted.
    """
    try:
        return _read(source, frames, keyframes, size, rotation, num_frames)
    except (SeekError, VideoError):
        is_plain = keyframes is None and num_frames is None
        if is_plain or isinstance(source, Path) and not source.is_file():
            raise
        return _read(source, frames, None, size, rotation, None)  # the sure way


def _read(
    source: Source,
    frames: NDArray[np.int64],
    keyframes: Keyframes | None,
    size: tuple[int, int] | None,
    rotation: int,
    num_frames: int | None,
) -> NDArray[np.uint8]:
    if len(frames) == 0 or frames[0] < 0 or np.any(np.diff(frames) <= 0):
        raise ValueError("frames must be non-negative and strictly increasing, and not empty")
    out: NDArray[np.uint8] | None = None
    with open_video(source) as video:
        if num_frames is not None and skipping_pays(video, frames, num_frames):
            picked = pick_skipping(video, frames, keyframes, num_frames)
        else:
            picked = _pick(video, frames, keyframes)
        for number, frame in enumerate(picked):
            if out is None:
                if size is None:
                    height, width = frame.height, frame.width
                    size = (height, width) if rotation % 180 == 0 else (width, height)
                out = np.empty((len(frames), 3, *size), np.uint8)
                writer = FrameWriter(size, rotation)
            writer.write(frame, out[number])
    assert out is not None
    return out


def _pick(
    video: OpenVideo, wanted: NDArray[np.int64], keyframes: Keyframes | None
) -> Iterator[Any]:
    """Yield the wanted frames, seeking where that skips enough decoding."""
    position, decoded = 0, decode_all(video)
    # Without B-frames no frame waits in the decoder for another, so a seek costs next to nothing.
    min_jump = MIN_SEEK_FRAMES if video.stream.codec_context.has_b_frames else 1
    for target in wanted.tolist():
        if keyframes is not None:
            nearest = int(np.searchsorted(keyframes.frames, target, side="right")) - 1
            if nearest >= 0 and keyframes.frames[nearest] >= position + min_jump:
                place = int(keyframes.pts[nearest]), int(keyframes.offsets[nearest])
                position, decoded = int(keyframes.frames[nearest]), decode_from(video, *place)
        for frame in decoded:
            position += 1
            if position > target:
                yield frame
                break
        else:
            raise VideoError(
                f"has {position} frames, frame {target} is wanted: the file was changed after it "
                "was indexed"
            )
