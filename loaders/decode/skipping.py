"""Decoding some frames of an H.264 video without those that are neither wanted nor referred to.

Which frame a packet holds is known before it is decoded: where every packet yields one frame, frame
i is the one with the i-th smallest timestamp. A packet whose frame is not wanted is then given to
the decoder with the order to skip it if no other frame refers to it, or not at all if a keyframe
comes before the next wanted frame; the others come out bit for bit as they would. Everything
assumed is checked against what comes out, and where it does not hold `SeekError` sends the reader
the sure way.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from fastdual.loaders.decode.keyframes import Keyframes
from fastdual.loaders.decode.video import (
    MIN_SEEK_FRAMES,
    OpenVideo,
    SeekError,
    VideoError,
    demux,
    explain,
)

_MAX_FRAMES = 3000  # all packets are held in memory; of a longer video seeking skips more
_MIN_UNWANTED = 4


def skipping_pays(
    video: OpenVideo, wanted: NDArray[np.int64], keyframes: Keyframes | None, num_frames: int
) -> bool:
    """Say whether frames can be skipped here, and enough of them to be worth the while."""
    context = video.stream.codec_context
    if context.name != "h264" or num_frames > _MAX_FRAMES:
        return False
    if not context.has_b_frames and (keyframes is None or not len(keyframes.frames)):
        return False
    return int(wanted[-1]) + 1 - len(wanted) >= _MIN_UNWANTED


def pick_skipping(
    video: OpenVideo, wanted: NDArray[np.int64], keyframes: Keyframes | None, num_frames: int
) -> Iterator[Any]:
    """Yield the wanted frames of a video that was opened and not read yet.

    Args:
        video: An H.264 video.
        wanted: [F] frame numbers, strictly increasing.
        keyframes: Its seek table, or None.
        num_frames: Frames that a full decode yields.

    Raises:
        SeekError: Packets and frames do not correspond as assumed.
        VideoError: A packet cannot be decoded, or a picture is damaged.
    """
    packets = list(demux(video))
    number_of = _number_frames(packets, num_frames)
    starts = _find_keyframes(packets, number_of, keyframes)
    context = video.stream.codec_context
    wanted_numbers = set(wanted.tolist())
    # Without B-frames no frame waits in the decoder for another, so a jump costs nothing.
    min_jump = MIN_SEEK_FRAMES if context.has_b_frames else 1
    place, first, next_frame = 0, 0, 0
    frames: Iterator[Any] = iter(())
    for target in wanted.tolist():
        start = max((s for s in starts if s[0] <= target), default=(0, 0))
        if start[0] >= next_frame + min_jump:
            context.flush_buffers()
            (first, place), frames = start, iter(())
            next_frame = first
        while True:
            frame = next(frames, None)
            if frame is None:
                if place == len(packets):
                    raise SeekError(f"frame {target} did not come")
                packet, place = packets[place], place + 1
                is_wanted = not packet.size or number_of[packet.pts] in wanted_numbers
                context.skip_frame = "DEFAULT" if is_wanted else "NONREF"
                frames = iter(_decode(packet, place))
                continue
            number = number_of.get(frame.pts, -1)
            if 0 <= number < first:
                continue  # a leading picture: it refers to what was jumped over
            if frame.is_corrupt:
                raise VideoError(f"frame {number} is damaged")
            if not next_frame <= number <= target:
                raise SeekError("frames come in another order than their timestamps")
            next_frame = number + 1
            if number == target:
                yield frame
                break


def _number_frames(packets: list[Any], num_frames: int) -> dict[int, int]:
    """Frame number by timestamp, where every packet holds just one frame; raises SeekError."""
    times = [packet.pts for packet in packets if packet.size]
    discarded = any(packet.is_discard for packet in packets)
    if discarded or None in times or len(set(times)) != len(times) or len(times) != num_frames:
        raise SeekError("packets do not tell which frame they hold")
    return {time: number for number, time in enumerate(sorted(times))}


def _find_keyframes(
    packets: list[Any], number_of: dict[int, int], keyframes: Keyframes | None
) -> list[tuple[int, int]]:
    """(frame number, place among the packets) of the keyframes in the table that are found."""
    if keyframes is None:
        return []
    offsets = dict(zip(keyframes.offsets.tolist(), keyframes.frames.tolist(), strict=True))
    return [
        (offsets[packet.pos], place)
        for place, packet in enumerate(packets)
        if packet.is_keyframe
        and packet.pos in offsets
        and number_of[packet.pts] == offsets[packet.pos]
    ]


def _decode(packet: Any, place: int) -> list[Any]:
    try:
        frames: list[Any] = packet.decode()
    except (FFmpegError, OSError, ValueError, MemoryError) as error:
        raise VideoError(f"packet {place - 1} cannot be decoded: {explain(error)}") from error
    return frames
