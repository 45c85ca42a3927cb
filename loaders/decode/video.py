"""The only place that opens a video with PyAV: safely, strictly, and with one numbering of frames.

Frame i is the i-th picture that a full decode from the start yields, in output order. Every reader
of the project keeps to that, whatever the container says about counts and times. A file that does
not decode cleanly is refused (`VideoError`), so that a damaged picture is never taken for a right
one. Call this in a worker process (`loaders.pool`): libav may crash or hang on a damaged file.
"""

import errno
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdual.errors import FailureError, PassingError, is_passing
from fastdual.loaders.decode.encoded import IndexedFile, PackedBytes
from fastdual.loaders.remote import fetch

Source = Path | IndexedFile | PackedBytes | bytes | bytearray | memoryview
"""A file, the same as it was indexed, a place in a pack, or a video's bytes."""

_MAX_PIXELS = 1 << 26  # a header may claim any size; 8192 x 8192 is beyond every camera
MIN_SEEK_FRAMES = 4  # a seek empties the decoder's pipeline: decoding on is cheaper up to here
# Demuxers that open other files than the one they are given.
_PLAYLISTS = {"hls", "dash", "concat", "concatf", "imf", "image2", "sdp", "webm_dash_manifest"}


class VideoError(FailureError):
    """A video cannot be decoded cleanly; the message is the reason, fit for the quarantine list."""


class SeekError(Exception):
    """A seek did not arrive where the keyframe table says."""


@dataclass(frozen=True)
class OpenVideo:
    """An open container and the video stream that is read."""

    container: Any
    stream: Any


@contextmanager
def open_video(source: Source, *, smooth: bool = True) -> Iterator[OpenVideo]:
    """Open a video for decoding on one thread.

    Args:
        source: A file, or its bytes; what was indexed is compared with its checksum first.
        smooth: False leaves the deblocking filter out: the same frames with other pixels, a third
            cheaper in H.264; for counting and comparing frames that nobody looks at.

    Yields:
        The open video; it is closed at the end of the block.

    Raises:
        VideoError: It is not a video, has no video stream, or claims an absurd frame size; or the
            file or the pack was altered since it was indexed.
        PassingError: In place of any VideoError, also of the block, where the bytes themselves
            cannot be read now: that is no property of the file.
    """
    try:
        with _opened(source, smooth) as video:
            yield video
    except VideoError as error:
        reason = _why_unreadable(source, error.__cause__)
        if reason is None:
            raise
        raise PassingError(f"cannot be read now: {reason}") from error


def _why_unreadable(source: Source, cause: BaseException | None) -> str | None:
    """Return the system's reason if it cannot read a file's bytes, or is short of something.

    What libav says does not tell: it reports damage as an error of reading, and the other way
    round. So the file is read without it.
    """
    if isinstance(cause, PassingError):
        return str(cause)
    if getattr(cause, "errno", None) in (errno.EMFILE, errno.ENFILE):
        return str(getattr(cause, "strerror", cause))
    try:
        if isinstance(cause, MemoryError) or getattr(cause, "errno", None) == errno.ENOMEM:
            bytearray(3 * _MAX_PIXELS)  # a header may ask for more than there is
        path = source.path if isinstance(source, IndexedFile) else source
        if isinstance(path, Path) and path.is_file():  # reading a pipe might never end
            with open(path, "rb") as file:
                while file.read(1 << 20):
                    pass
    except (OSError, MemoryError) as error:
        return (getattr(error, "strerror", None) or "no memory") if is_passing(error) else None
    return None


@contextmanager
def _opened(source: Source, smooth: bool) -> Iterator[OpenVideo]:
    import av

    av.logging.set_level(None)  # what libav has to say about a file comes as an exception
    if isinstance(source, Path) and source.exists() and not source.is_file():
        raise VideoError("is not a regular file")  # reading a pipe might never end
    options = {"protocol_whitelist": "file", "max_pixels": str(_MAX_PIXELS)}
    try:
        name = _to_input(source)
        container = av.open(name, options=options, metadata_errors="replace")
    except FileNotFoundError as error:
        raise VideoError("the file is missing") from error
    except PermissionError as error:
        raise VideoError("the file may not be read (permission denied)") from error
    except FailureError as error:
        raise VideoError(str(error)) from error
    except _read_errors() as error:
        raise VideoError(_not_a_video(source)) from error
    try:
        stream = _choose_stream(container)
        if not smooth:
            stream.codec_context.options = {"skip_loop_filter": "all"}
        yield OpenVideo(container, stream)
    finally:
        container.close()


def _to_input(source: Source) -> Any:
    if isinstance(source, PackedBytes):
        return source.open()
    if isinstance(source, IndexedFile):
        source.check()
        source = source.path
    if isinstance(source, Path):
        fetch(source)
        # With "file:" and the whitelist no file name or playlist makes libav open anything else.
        return f"file:{source.absolute()}"
    return io.BytesIO(source)


def _choose_stream(container: Any) -> Any:
    if container.format.name in _PLAYLISTS:
        raise VideoError(f"is a playlist ({container.format.name}), not a video")
    stream = container.streams.best("video")
    from av.stream import Disposition

    cover = Disposition.attached_pic
    pictures = [s for s in container.streams.video if not s.disposition & cover]
    if stream is None and pictures:
        raise VideoError("its video stream is in a format that cannot be decoded here")
    if not pictures:
        kinds = sorted({s.type for s in container.streams if s.type != "video"})
        what = f"only {' and '.join(kinds)}" if kinds else "no streams at all"
        raise VideoError(f"has no video stream ({what})")
    stream = stream if stream in pictures else pictures[0]
    context = stream.codec_context
    if context is None:
        raise VideoError("its video stream is in a format that cannot be decoded here")
    if context.width * context.height > _MAX_PIXELS:
        raise VideoError(f"claims a frame size of {context.width}x{context.height}")
    context.thread_count = 1  # one core a worker; frame threads can also deadlock on closing
    context.thread_type = "NONE"
    return stream


def _read_errors(*more: type[Exception]) -> tuple[type[Exception], ...]:
    from av.error import FFmpegError

    return (FFmpegError, OSError, ValueError, *more)


def _not_a_video(source: Source) -> str:
    size = source.stat().st_size if isinstance(source, Path) else len(source)
    return "the file is empty" if size == 0 else "is not a video, or its header is damaged"


def demux(video: OpenVideo) -> Iterator[Any]:
    """Yield the packets of the video stream, an empty one (end of stream) last.

    Raises:
        VideoError: The file ends inside a packet, is encrypted, or cannot be read on.
    """
    packets = video.container.demux(video.stream)
    number = 0
    while True:
        try:
            packet = next(packets, None)
        except _read_errors() as error:
            raise VideoError(f"cannot be read past packet {number}: {explain(error)}") from error
        if packet is None:
            return
        if packet.is_corrupt:
            raise VideoError(f"is truncated or damaged: packet {number} is incomplete")
        if packet.has_sidedata("encryption_info"):
            raise VideoError("is encrypted")
        number += 1
        yield packet


def decode_all(video: OpenVideo, packets: Iterator[Any] | None = None) -> Iterator[Any]:
    """Yield the frames (av.VideoFrame) in output order.

    Args:
        video: An open video.
        packets: What to decode; None for all of it.

    Raises:
        VideoError: A packet cannot be decoded, or a picture is damaged.
    """
    count = 0
    for packet in demux(video) if packets is None else packets:
        for frame in decode_packet(packet, f"frame {count}"):
            if frame.is_corrupt:
                raise VideoError(f"frame {count} is damaged")
            yield frame
            count += 1


def decode_packet(packet: Any, name: str) -> list[Any]:
    """Return the frames that come out for a packet; `name` is what a message calls it.

    Raises:
        VideoError: It cannot be decoded.
    """
    try:
        frames: list[Any] = packet.decode()
    except _read_errors(MemoryError) as error:
        raise VideoError(f"{name} cannot be decoded: {explain(error)}") from error
    return frames


def explain(error: Exception) -> str:
    """Return what libav says of an error, as the end of a sentence."""
    return str(getattr(error, "strerror", None) or error).rstrip(".").lower()


def decode_from(video: OpenVideo, pts: int, offset: int) -> Iterator[Any]:
    """Seek to a keyframe and yield the frames from its own picture on.

    Leading pictures of an open group, which refer to what came before, are not yielded.

    Args:
        video: An open video.
        pts: Time of the keyframe, in the stream's time base.
        offset: Byte position of its packet.

    Raises:
        SeekError: The seek did not lead to the packet at byte `offset`.
        VideoError: As for `decode_all`.
    """
    try:
        video.container.seek(pts, stream=video.stream)
    except _read_errors() as error:
        raise SeekError(str(error)) from error
    frames = decode_all(video, _packets_from(video, offset))
    for frame in frames:
        if frame.key_frame:
            yield frame
            break
    yield from frames


def _packets_from(video: OpenVideo, offset: int) -> Iterator[Any]:
    packets = demux(video)
    for packet in packets:
        if packet.is_keyframe and packet.pos == offset:
            yield packet
            break
        if not packet.size or (packet.pos is not None and packet.pos > offset):
            raise SeekError(f"no keyframe at byte {offset}")
    yield from packets
