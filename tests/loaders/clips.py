"""Tiny videos that the tests encode themselves; every frame shows its own number."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdual.loaders.decode.picture import interleave
from fastdual.loaders.decode.read import read_planes
from fastdual.loaders.decode.video import Source
from fastdual.loaders.index.video import Video
from tests.packages import av, need

BITS = 8
FORMATS: dict[str, dict[str, Any]] = {
    "h264.mp4": {},
    "h264-b-frames.mp4": {"b_frames": 3, "gop": 8},
    "h264-open-gop.mkv": {"b_frames": 2, "gop": 8, "options": {"x264-params": "open-gop=1"}},
    "h264-10-bit.mp4": {"pixels": "yuv420p10le", "gop": 6},
    "h264-444.mp4": {"pixels": "yuv444p"},
    "h264.ts": {"gop": 6, "b_frames": 2},
    "h265.mp4": {"codec": "libx265", "gop": 6, "options": {"x265-params": "log-level=none"}},
    "mpeg4.avi": {"codec": "mpeg4", "gop": 5, "options": {"qscale": "2"}},
    "mpeg4-b-frames.avi": {"codec": "mpeg4", "b_frames": 2, "gop": 6, "options": {"qscale": "2"}},
    "mpeg2.mpg": {"codec": "mpeg2video", "b_frames": 2, "gop": 6, "fps": 25},
    "vp8.webm": {"codec": "libvpx", "gop": 7},
    "vp9.webm": {"codec": "libvpx-vp9", "gop": 7},
    "mjpeg.avi": {"codec": "mjpeg", "pixels": "yuvj420p", "options": {"qscale": "2"}},
    "grey.mkv": {"codec": "ffv1", "pixels": "gray"},
    "variable-rate.mp4": {"times": [n * n for n in range(20)], "gop": 5},
    "late-start.mp4": {"times": [500 + n for n in range(20)], "gop": 5},
}


def picture(number: int, *, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """RGB frame of 8 vertical bars: the bits of the number, white for 1; the last row is red."""
    bits = [(number >> bit) & 1 for bit in range(BITS)]
    row = np.repeat(np.array(bits, np.uint8) * 200 + 20, width // BITS)
    frame = np.broadcast_to(row[None, :, None], (height, width, 3)).copy()
    frame[-height // 4 :] = (200, 30, 30)
    return frame


def read_number(frame: NDArray[np.uint8]) -> int:
    """Return the number that a decoded, perhaps scaled, upright frame shows."""
    height, width = frame.shape[:2]
    centres = ((np.arange(BITS) + 0.5) * width / BITS).astype(int)
    bits = frame[height // 4, centres].mean(axis=1) > 120
    return int((bits << np.arange(BITS)).sum())


def read_frames(source: Source, frames: NDArray[np.int64], **options: Any) -> NDArray[np.uint8]:
    """Decode the wanted frames as pictures [F, h, w, 3]; arguments and errors of `read_planes`."""
    return interleave(read_planes(source, frames, **options))


def numbers(source: Source, frames: list[int], found: Video, **options: Any) -> list[int]:
    """Return the numbers that some frames of an examined video show."""
    pictures = read_frames(source, np.array(frames, np.int64), keyframes=found.keyframes, **options)
    return [read_number(one) for one in pictures]


def encode(
    path: Path,
    num_frames: int = 20,
    *,
    codec: str = "libx264",
    height: int = 48,
    width: int = 64,
    fps: int = 10,
    gop: int = 250,
    b_frames: int = 0,
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    rotation: int = 0,
    times: list[int] | None = None,
) -> Path:
    """Write frames 0, 1, ... and return the path; `times` are pts in 1/fps for a variable rate."""
    need("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", container_options=container_options or {}) as container:
        stream: Any = container.add_stream(codec, rate=fps, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.codec_context.gop_size = gop
        stream.codec_context.max_b_frames = b_frames
        stream.codec_context.time_base = Fraction(1, fps)
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(num_frames):
            image = picture(number, height=height, width=width)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = number if times is None else times[number]
            frame.time_base = Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def remux(source: Path, path: Path, *, delay: int) -> Path:
    """Copy the packets of a video so many frames later; negative times stay negative."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"avoid_negative_ts": "disabled"}
    with av.open(str(source)) as old, av.open(str(path), "w", options=options) as new:
        stream = old.streams.video[0]
        copied = new.add_stream_from_template(stream)
        ticks = round(delay / (stream.average_rate * stream.time_base))
        for packet in old.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
                packet.stream = copied
                new.mux(packet)
    return path


def encode_sound(path: Path) -> Path:
    """Write a file with sound alone."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def stop_after(count: int) -> Callable[[int, int, int], None]:
    """Return a progress callback that stops a build or a pack after so many videos."""

    def progress(done: int, total: int, bad: int) -> None:
        if done == count:
            raise KeyboardInterrupt

    return progress
