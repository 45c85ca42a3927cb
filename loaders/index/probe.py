"""What a video file really holds, found out by decoding all of it once.

Containers lie about counts, so every frame is decoded (and none converted). Then keyframes are
tried: what follows a seek must be the very pictures of the full decode. This runs in a worker
process of `loaders.pool`.
"""

import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from fastdual.loaders.decode.encoded import IndexedFile, PackedBytes
from fastdual.loaders.decode.keyframes import Keyframes
from fastdual.loaders.decode.picture import clockwise_rotation
from fastdual.loaders.decode.video import (
    OpenVideo,
    SeekError,
    Source,
    VideoError,
    decode_all,
    decode_from,
    demux,
    open_video,
)
from fastdual.loaders.index.repeats import REPEATING, shows_again
from fastdual.loaders.index.video import Video

_TRIED_SEEKS = 16  # spread over the file; a file whose seeks fail anywhere is read from its start
_CHECKED_FRAMES = 3  # pictures compared after each tried seek
_MAX_FPS = 10_000


@dataclass
class _Decoded:
    """What one pass over the frames leaves behind."""

    num_frames: int = 0
    size: tuple[int, int] = (0, 0)
    rotation: int = 0
    pts: list[int | None] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    checksums: dict[int, int] = field(default_factory=dict)  # of frames that seeks are checked at
    packets: dict[int, int] = field(default_factory=dict)  # pts to offset of the keyframe packets
    pixel_format: str = ""
    colour_space: int = 2
    packets_pts: list[int] = field(default_factory=list)
    num_packets: int = 0
    num_repeats: int = 0
    open_gop: bool = False


def probed_by() -> str:
    """Return who examines: findings of another version of this file or of libav are not kept."""
    import av

    return f"3, libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}"


def examine_file(source: Source) -> Video:
    """Decode a video from start to end and describe it.

    Args:
        source: A file, a place in a pack, or a video's bytes.

    Returns:
        What its bytes tell; the path, label and group of the result are not set.

    Raises:
        VideoError: It is not usable; the message says why.
        PassingError: It cannot be read now.
    """
    with open_video(source, smooth=False) as video:
        decoded = _decode(video)
        _refuse_missing_packets(video, decoded)
        if decoded.num_frames == 0:
            raise VideoError(_why_no_frames(source))
        fps = _frame_rate(video)
        duration = _duration(decoded, fps, video.stream.time_base)
        context = video.stream.codec_context
        codec, profile = context.codec.canonical_name, context.profile or ""
    return Video(
        num_frames=decoded.num_frames,
        fps=fps,
        size=decoded.size,
        rotation=decoded.rotation,
        codec=codec,
        duration_seconds=duration,
        keyframes=_sound_keyframes(source, decoded),
        sha256=_sha256(source),
        pixel_format=decoded.pixel_format,
        profile=profile,
        colour_space=decoded.colour_space,
        num_packets=decoded.num_packets,
        num_repeats=decoded.num_repeats,
        num_untimed=decoded.num_packets - len(decoded.packets_pts),
        first_pts=min(decoded.packets_pts, default=0),
        last_pts=max(decoded.packets_pts, default=0),
        open_gop=int(decoded.open_gop),
    )


def _sha256(source: Source) -> bytes:
    if isinstance(source, IndexedFile | PackedBytes):
        return source.sha256  # compared when it was opened
    if not isinstance(source, Path):
        return hashlib.sha256(source).digest()
    with open(source, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _decode(video: OpenVideo) -> _Decoded:
    decoded = _Decoded()
    check_until = 0
    for frame in decode_all(video, _noting_packets(video, decoded)):
        number, size = decoded.num_frames, (frame.height, frame.width)
        if number == 0:
            decoded.size, decoded.rotation = size, clockwise_rotation(frame)
            decoded.pixel_format, decoded.colour_space = frame.format.name, int(frame.colorspace)
        elif size != decoded.size:
            height, width = decoded.size
            raise VideoError(
                f"changes its frame size from {width}x{height} to {size[1]}x{size[0]} at frame "
                f"{number}"
            )
        if frame.key_frame:
            decoded.keys.append(number)
            check_until = number + _CHECKED_FRAMES
        if number < check_until and number >= _CHECKED_FRAMES:  # seeks to the start need no check
            decoded.checksums[number] = _checksum(frame)
        decoded.pts.append(frame.pts)
        decoded.num_frames += 1
    return decoded


def _noting_packets(video: OpenVideo, decoded: _Decoded) -> Iterator[Any]:
    codec = video.stream.codec_context.codec.canonical_name
    keyframe_pts: int | None = None
    for packet in demux(video):
        if packet.size:
            decoded.num_packets += 1
            decoded.num_repeats += codec in REPEATING and shows_again(codec, bytes(packet))
        if packet.size and packet.pts is not None:
            decoded.packets_pts.append(packet.pts)
            decoded.open_gop |= keyframe_pts is not None and packet.pts < keyframe_pts
            if packet.is_keyframe:
                keyframe_pts = packet.pts
        if packet.is_keyframe and packet.pts is not None and packet.pos is not None:
            decoded.packets[packet.pts] = packet.pos
        yield packet


def _refuse_missing_packets(video: OpenVideo, decoded: _Decoded) -> None:
    """Refuse an mp4 whose data end early: libav just stops, but a table states the packets."""
    stated = len(video.stream.index_entries) if "mp4" in video.container.format.name else 0
    if decoded.num_packets < stated:
        raise VideoError(f"is truncated: {decoded.num_packets} of {stated} frames are there")


def _why_no_frames(source: Source) -> str:
    if isinstance(source, IndexedFile | PackedBytes):
        head = source.read()
    elif isinstance(source, Path):
        with open(source, "rb") as file:
            head = file.read(1 << 20)
    else:
        head = bytes(source)
    if b"encv" in head[: 1 << 20]:
        return "is encrypted, or the header of an encrypted video without its pictures"
    return "holds no pictures (a header without video data)"


def _checksum(frame: Any) -> int:
    """Return the CRC of the visible part of all planes."""
    value = zlib.crc32(frame.format.name.encode())
    for plane in frame.planes:
        rows = np.frombuffer(plane, np.uint8).reshape(-1, abs(plane.line_size))
        depth = max(part.bits for part in frame.format.components)
        width = plane.width * (2 if depth > 8 else 1) if frame.format.is_planar else rows.shape[1]
        value = zlib.crc32(rows[: plane.height, :width].tobytes(), value)
    return value


def _frame_rate(video: OpenVideo) -> tuple[int, int]:
    rate = video.stream.average_rate or video.stream.guessed_rate
    if rate is None or not 0 < rate <= _MAX_FPS:
        return 0, 1
    return rate.numerator, rate.denominator


def _duration(decoded: _Decoded, fps: tuple[int, int], time_base: Fraction | None) -> float:
    times = [value for value in decoded.pts if value is not None]
    count = decoded.num_frames
    if time_base is not None and count > 1 and len(times) == count and len(set(times)) == count:
        return float((max(times) - min(times)) * time_base * count / (count - 1))
    return count * fps[1] / fps[0] if fps[0] else 0.0


def _sound_keyframes(source: Source, decoded: _Decoded) -> Keyframes:
    """Return the keyframes after the first one, none if a seek leads to other pictures."""
    places = [
        (number, pts, decoded.packets[pts])
        for number in decoded.keys
        if number >= _CHECKED_FRAMES
        and (pts := decoded.pts[number]) is not None
        and pts in decoded.packets
    ]
    tried = np.unique(np.linspace(0, len(places) - 1, _TRIED_SEEKS).round().astype(int))
    if places and not all(_seek_is_sound(source, places[i], decoded) for i in tried):
        places = []
    return Keyframes.of(list(zip(*places, strict=True)))


def _seek_is_sound(source: Source, place: tuple[int, int, int], decoded: _Decoded) -> bool:
    number, pts, offset = place
    count = min(_CHECKED_FRAMES, decoded.num_frames - number)
    try:
        with open_video(source, smooth=False) as video:
            for frame, expected in zip(
                decode_from(video, pts, offset), range(number, number + count), strict=False
            ):
                if _checksum(frame) != decoded.checksums[expected]:
                    return False
                count -= 1
    except (SeekError, VideoError):
        return False
    return count == 0
