"""Small encoded videos from pictures, the same bytes on every machine."""

import io
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastdual.loaders.files import write

ENCODER_OPTIONS = {
    # One thread and bit-exact muxing: the same seed gives the same bytes on every machine.
    # Macroblock-tree rate control was seen to give other bytes from run to run.
    "libx264": {"preset": "veryfast", "crf": "22", "g": "24", "mbtree": "0", "threads": "1"},
    "libvpx-vp9": {
        "deadline": "realtime", "cpu-used": "8", "crf": "30", "b": "0", "g": "24", "threads": "1",
    },
}  # fmt: skip


def encode_video(path: Path, video: NDArray[np.uint8], *, codec: str, fps: int) -> None:
    """Write a video; the same frames give the same bytes.

    Args:
        path: The file; its suffix decides the container.
        video: uint8 RGB [T, H, W, 3].
        codec: libx264 or libvpx-vp9.
        fps: Frames per second.

    Raises:
        FailureError: The file cannot be written.
    """
    import av  # not before a video is written: --help does not wait for it

    file = io.BytesIO()
    with av.open(file, "w", format=path.suffix[1:]) as container:
        container.flags |= av.container.Flags.bitexact.value
        stream = container.add_stream(codec, rate=fps, options=dict(ENCODER_OPTIONS[codec]))
        stream.height, stream.width = video.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, fps)
        stream.codec_context.flags |= av.codec.context.Flags.bitexact
        for picture in video:
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    write(path, file.getbuffer(), "the video")
