"""Re-encoding a video for a pack: upright, small, in short groups, every frame at its place.

Frame i of the result is frame i of the source as the loader would show it (`decode.picture`), with
its colours as BT.601. The frames are stored by phase of the stride that clips will have
(`decode.frame_order`), at a constant rate whatever the times of the source. There are no B-frames:
reading a frame costs what lies between it and the keyframe before it. With one thread and bit-exact
muxing, the same source gives the same bytes (same libraries, same kind of CPU).
"""

import io
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from fastdual.errors import InputError, PassingError, is_passing
from fastdual.loaders.decode.encoded import Encoded
from fastdual.loaders.decode.frame_order import MAX_STRIDE, FrameOrder, reorder
from fastdual.loaders.index.video import Video

Codec = Literal["h264", "hevc", "vp9", "mjpeg"]
CODECS: tuple[Codec, ...] = get_args(Codec)

_MAX_SIDE = 8192
_MIN_SIDE = 16
_FPS_RANGE = (1, 240)  # other rates, and unknown ones, are written as _USUAL_FPS
_USUAL_FPS = Fraction(25)
_BT601 = 5
_LIMITED_RANGE, _FULL_RANGE = 1, 2
_NEVER = "1000000"  # keyframes are forced, each by itself


# Name of the encoder, default quality, smallest and largest quality.
_ENCODERS: dict[str, tuple[str, int, int, int]] = {
    "h264": ("libx264", 18, 1, 51),
    "hevc": ("libx265", 22, 1, 51),
    "vp9": ("libvpx-vp9", 28, 1, 63),
    "mjpeg": ("mjpeg", 3, 2, 31),
}


@dataclass(frozen=True, kw_only=True)
class Transcoding:
    """How videos are re-encoded.

    Sides are rounded up: to even numbers for 4:2:0, and for H.264 and HEVC to multiples of 16, the
    size in which they are coded, so that NVDEC can use its decoders again.

    Attributes:
        codec: Format; NVDEC decodes no MJPEG, and VP9 and HEVC only from 128 and 144 pixels on.
        size: (height, width) of every upright video; None keeps the shape.
        short_side: The shorter side is scaled down to this, the other in proportion to the nearest
            even number; a video that is no larger keeps its size.
        stride: Clips with this distance of frames cost least; any other can be had too.
        gop: Stored frames from one keyframe to the next (MJPEG has keyframes only).
        quality: CRF of h264, hevc and vp9, quantiser of mjpeg: lower is better; None for the
            codec's default.

    Raises:
        InputError: A value that does not fit.
    """

    codec: Codec = "h264"
    size: tuple[int, int] | None = None
    short_side: int | None = None
    stride: int = 4
    gop: int = 16
    quality: int | None = None

    def __post_init__(self) -> None:
        if self.codec not in CODECS:
            raise InputError(f"codec is {self.codec!r}; choose one of {', '.join(CODECS)}")
        if self.size is not None and self.short_side is not None:
            raise InputError("size and short side exclude each other: give one of them")
        sides = (*(self.size or ()), *([self.short_side] if self.short_side is not None else ()))
        if any(not _MIN_SIDE <= side <= _MAX_SIDE for side in sides):
            raise InputError(f"a picture's side must be {_MIN_SIDE} to {_MAX_SIDE}, got {sides}")
        if not 1 <= self.stride <= MAX_STRIDE:
            raise InputError(f"stride is {self.stride}; it must be 1 to {MAX_STRIDE}")
        if not 1 <= self.gop <= 1000:
            raise InputError(f"gop is {self.gop}; it must be 1 to 1000")
        low, high = _ENCODERS[self.codec][2:]
        if self.quality is not None and not low <= self.quality <= high:
            raise InputError(f"quality of {self.codec} is {self.quality}; use {low} to {high}")

    @property
    def crf(self) -> int:
        """The quality that is used: the one that is set, or the codec's default."""
        return _ENCODERS[self.codec][1] if self.quality is None else self.quality

    def settings(self) -> dict[str, Any]:
        """Return the values that decide the result, as plain values for JSON."""
        size = None if self.size is None else list(self.size)
        return {**asdict(self), "size": size, "quality": self.crf}

    @property
    def _multiple(self) -> int:
        return 16 if self.codec in ("h264", "hevc") else 2

    def check_encoder(self) -> None:
        """Raise an InputError where the libav of this PyAV cannot encode the codec."""
        import av

        name = _ENCODERS[self.codec][0]
        if name not in av.codecs_available:
            raise InputError(f"codec {self.codec}: this PyAV has no {name}; use another --codec")

    def output_size(self, size: tuple[int, int], rotation: int) -> tuple[int, int]:
        """Return (height, width) of the result for a source of `size` before rotation."""
        height, width = size if rotation % 180 == 0 else size[::-1]
        if self.size is not None:
            height, width = self.size
        elif self.short_side is not None and min(height, width) > self.short_side:
            scale = Fraction(self.short_side, min(height, width))
            height, width = round(height * scale), round(width * scale)
        multiple = self._multiple
        return -(-height // multiple) * multiple, -(-width // multiple) * multiple


def pack_task(
    transcoding: Transcoding | None, task: tuple[Encoded, Video, FrameOrder]
) -> tuple[bytes, Video | None]:
    """Pack one video in a worker process.

    Args:
        transcoding: How; None keeps the bytes as they are.
        task: The video's bytes, what the index says of them, and the order of their frames.

    Returns:
        The bytes, and what they hold; None for bytes of which the index says everything.

    Raises:
        FailureError: The video cannot be used; the message is the reason.
    """
    from fastdual.loaders.decode.video import VideoError
    from fastdual.loaders.index.probe import examine_file

    source, video, order = task
    if transcoding is not None:
        contents = transcode(source, video, order, transcoding)
    else:
        try:
            contents = source.read()
        except OSError as error:
            kind = PassingError if is_passing(error) else VideoError
            raise kind(f"cannot be read: {error.strerror}") from error
        if video.pixel_format:
            return contents, None
    made = examine_file(contents)
    if made.num_frames != video.num_frames:
        raise VideoError(f"the pack would have {made.num_frames} frames of {video.num_frames}")
    return contents, made


def transcode(source: Encoded, video: Video, order: FrameOrder, transcoding: Transcoding) -> bytes:
    """Return a video as an mp4 file with as many frames.

    Args:
        source: The video's bytes.
        video: What the index says of them: frames, size, frame rate and rotation are used.
        order: In which the source stores its frames.
        transcoding: How.

    Raises:
        VideoError: It does not decode cleanly, or not to as many frames as the index says.
    """
    size = transcoding.output_size(video.size, video.rotation)
    wanted = FrameOrder(video.num_frames, transcoding.stride, size)
    out = io.BytesIO()
    with _Writer(out, transcoding, size, video.fps) as writer:
        pictures = map(writer.convert, _upright(source, video, size))
        keyframes = set(wanted.starts(transcoding.gop).tolist())
        arranged = reorder(pictures, order.frames().tolist(), wanted.frames().tolist())
        for place, picture in enumerate(arranged):
            writer.write(picture, is_key=place in keyframes)
        deque(pictures, maxlen=0)  # the source may hold more frames than the index says
    return out.getvalue()


def _upright(source: Encoded, video: Video, size: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames of a video as they are stored, upright, [h, w, 3]; each time the same array.

    Raises:
        VideoError: They are not as many, or not as large, as the index says.
    """
    from fastdual.loaders.decode.picture import FrameWriter, interleave
    from fastdual.loaders.decode.video import VideoError, decode_all, open_video

    writer, planes, count = FrameWriter(size, video.rotation), np.empty((3, *size), np.uint8), 0
    with open_video(source) as opened:
        for frame in decode_all(opened):
            if (frame.height, frame.width) != video.size:
                raise VideoError(f"changes its frame size at frame {count}")
            if count == video.num_frames:
                raise VideoError(f"has more frames than the {count} that the index says")
            writer.write(frame, planes)
            yield interleave(planes)
            count += 1
    if count != video.num_frames:
        raise VideoError(f"has {count} frames, the index says {video.num_frames}")


class _Writer:
    """Encodes RGB pictures of one size into an mp4 file."""

    def __init__(
        self, out: io.BytesIO, settings: Transcoding, size: tuple[int, int], fps: tuple[int, int]
    ) -> None:
        import av
        from av.video.reformatter import VideoReformatter

        rate = Fraction(*fps) if fps[0] and fps[1] else _USUAL_FPS
        if not _FPS_RANGE[0] <= rate <= _FPS_RANGE[1]:
            rate = _USUAL_FPS
        self._container: Any = av.open(out, "w", format="mp4")
        self._container.flags |= av.container.Flags.bitexact.value
        name = _ENCODERS[settings.codec][0]
        stream: Any = self._container.add_stream(name, rate=rate, options=_options(settings))
        stream.height, stream.width = size
        full_range = settings.codec == "mjpeg"
        stream.pix_fmt = "yuvj420p" if full_range else "yuv420p"
        stream.time_base = 1 / rate
        context = stream.codec_context
        context.time_base = 1 / rate
        context.flags |= av.codec.context.Flags.bitexact
        context.colorspace = _BT601
        context.color_range = _FULL_RANGE if full_range else _LIMITED_RANGE
        self._stream, self._count, self._step = stream, 0, 1 / rate
        self._scaler: Any = VideoReformatter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *details: object) -> None:
        if kind is None:
            self._encode(None)
        self._container.close()

    def convert(self, pixels: NDArray[np.uint8]) -> Any:
        """Return a picture [h, w, 3] uint8 as a frame that can be encoded."""
        import av

        return self._scaler.reformat(
            av.VideoFrame.from_ndarray(pixels, format="rgb24"),
            format=self._stream.pix_fmt,
            dst_colorspace=_BT601,
            dst_color_range=self._stream.codec_context.color_range,
            interpolation=av.video.reformatter.Interpolation.BILINEAR
            | av.video.reformatter.Interpolation.ACCURATE_RND,
            threads=1,
        )

    def write(self, frame: Any, *, is_key: bool) -> None:
        """Encode a frame that `convert` made."""
        from av.video.frame import PictureType

        frame.pts, frame.time_base = self._count, self._step
        frame.pict_type = PictureType.I if is_key else PictureType.NONE
        self._count += 1
        self._encode(frame)

    def _encode(self, frame: Any) -> None:
        from av.error import FFmpegError

        from fastdual.loaders.decode.video import VideoError, explain

        try:
            packets = self._stream.encode(frame)
        except FFmpegError as error:
            size = f"{self._stream.width}x{self._stream.height}"
            what = f"{self._stream.codec_context.name} cannot encode pictures of {size}"
            raise VideoError(f"{what}: {explain(error)}") from error
        self._container.mux(packets)


def _options(settings: Transcoding) -> dict[str, str]:
    """Return options for keyframes where they are asked for alone, no B-frames, and nothing that
    varies from run to run."""
    quality = str(settings.crf)
    if settings.codec == "mjpeg":
        return {"qmin": quality, "qmax": quality, "threads": "1"}
    shared = {"crf": quality, "g": _NEVER, "threads": "1"}
    if settings.codec == "h264":
        # Macroblock-tree rate control was seen to give other bytes from run to run. Without CABAC
        # and deblocking ("fastdecode") decoding took a third less time, for a twentieth more bytes.
        fixed = {"sc_threshold": "0", "bf": "0", "mbtree": "0", "forced-idr": "1"}
        return {**shared, **fixed, "preset": "fast", "tune": "fastdecode"}
    if settings.codec == "hevc":
        fixed = {"keyint": _NEVER, "min-keyint": "1", "scenecut": "0", "bframes": "0"}
        quiet = {"open-gop": "0", "pools": "none", "frame-threads": "1", "log-level": "none"}
        joined = ":".join(f"{name}={value}" for name, value in {**fixed, **quiet}.items())
        return {**shared, "forced-idr": "1", "preset": "fast", "x265-params": joined}
    speed = {"deadline": "good", "cpu-used": "4", "b": "0"}
    return {**shared, **speed, "auto-alt-ref": "0", "lag-in-frames": "0"}
