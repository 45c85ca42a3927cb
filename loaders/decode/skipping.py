"""Decoding some frames of an H.264 video without those that are neither wanted nor referred to.

Which frame a packet holds is known before it is decoded: where every packet yields one frame, frame
i is the one with the i-th smallest timestamp. Frames 2 and 9 are wanted:

    frame   0  1  2  3  4  5  6  7  8  9
    type    I  b  P  b  P  b  P  b  I  P     no frame refers to a b
    work    d  x  d  -  -  -  -  -  d  d     d decoded, x skipped by the decoder, - not given to it

A packet whose frame is not wanted is given to the decoder with the order to skip it if no other
frame refers to it, and not at all if a keyframe comes before the next wanted frame; the others come
out bit for bit as they would. Everything assumed is checked against what comes out, and where it
does not hold, `SeekError` sends the reader the sure way: decoding all from the start.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdual.loaders.decode.keyframes import Keyframes
from fastdual.loaders.decode.video import (
    MIN_SEEK_FRAMES,
    OpenVideo,
    SeekError,
    VideoError,
    decode_packet,
    demux,
)

_MAX_FRAMES = 3000  # all packets are held in memory; of a longer video seeking skips more
_MIN_UNWANTED = 4


def skipping_pays(video: OpenVideo, wanted: NDArray[np.int64], num_frames: int) -> bool:
    """Say whether frames can be skipped here, and enough of them to be worth the while."""
    context = video.stream.codec_context
    if context.name != "h264" or not context.has_b_frames or num_frames > _MAX_FRAMES:
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
    starts = [(0, 0), *_find_keyframes(packets, number_of, keyframes)]
    context = video.stream.codec_context
    wanted_numbers = set(wanted.tolist())
    frames = _decode_on(context, packets, number_of, wanted_numbers, (0, 0))
    next_frame = 0
    for target in wanted.tolist():
        start = max(start for start in starts if start[0] <= target)
        if start[0] >= next_frame + MIN_SEEK_FRAMES:
            context.flush_buffers()
            frames = _decode_on(context, packets, number_of, wanted_numbers, start)
            next_frame = start[0]
        for number, frame in frames:
            if not next_frame <= number <= target:
                raise SeekError("frames come in another order than their timestamps")
            next_frame = number + 1
            if number == target:
                yield frame
                break
        else:
            raise SeekError(f"frame {target} did not come")


def _decode_on(
    context: Any,
    packets: list[Any],
    number_of: dict[int, int],
    wanted: set[int],
    start: tuple[int, int],
) -> Iterator[tuple[int, Any]]:
    """Yield (number, frame) of what the decoder does not skip, from (frame, place of packet) on."""
    first, begin = start
    for place, packet in enumerate(packets[begin:], begin):
        is_wanted = not packet.size or number_of[packet.pts] in wanted
        context.skip_frame = "DEFAULT" if is_wanted else "NONREF"
        for frame in decode_packet(packet, f"packet {place}"):
            number = number_of.get(frame.pts, -1)
            if 0 <= number < first:
                continue  # a leading picture: it refers to what was jumped over
            if frame.is_corrupt:
                raise VideoError(f"frame {number} is damaged")
            yield number, frame


def _number_frames(packets: list[Any], num_frames: int) -> dict[int, int]:
    """Return the frame number by timestamp, or raise SeekError: a packet is not just one frame."""
    times = [packet.pts for packet in packets if packet.size]
    discarded = any(packet.is_discard for packet in packets)
    if discarded or None in times or len(set(times)) != len(times) or len(times) != num_frames:
        raise SeekError("packets do not tell which frame they hold")
    return {time: number for number, time in enumerate(sorted(times))}


def _find_keyframes(
    packets: list[Any], number_of: dict[int, int], keyframes: Keyframes | None
) -> list[tuple[int, int]]:
    """Return (frame number, place among the packets) of the keyframes in the table."""
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
