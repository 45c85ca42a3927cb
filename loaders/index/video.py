"""What is known of one video, and the columns that hold it for all videos of an index."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastdual.loaders.decode.keyframes import Keyframes


@dataclass(frozen=True, eq=False, kw_only=True)
class Video:
    """A usable video. The fields with a default are not in its bytes: the index knows them.

    Attributes:
        num_frames: Frames that a full decode yields, exactly.
        fps: Mean frame rate as (numerator, denominator), (0, 1) where unknown.
        size: (height, width) of the decoded frames, before rotation.
        rotation: Clockwise degrees (0, 90, 180, 270) that make a decoded frame upright.
        codec: libav's name of the format.
        duration_seconds: From the first frame shown to the end of the last.
        sha256: Checksum of the bytes (32 bytes).
        keyframes: Where seeking is sound; empty if only decoding from the start is.
        path: Relative to the root of the index.
        file_bytes: Size of the file, or of the bytes in a pack.
        modified_ns: Time of the file when it was examined.
        label: Class number, -1 where there is none.
        group: What the video was cut from (signer, film, ...), "" where unknown.
        pixel_format: libav's name of how pixels are stored; "" where this and all that follows is
            not known, as in an index by an older fastdual.
        profile: libav's name of the codec's profile, "" where it has none.
        colour_space: The matrix that is stated, by libav's number; 2 where none is.
        num_packets: Packets of the video stream.
        num_repeats: Those that show a picture again, see `repeats`.
        num_untimed: Those without a time.
        first_pts, last_pts: Least and greatest time of a packet, in the stream's time base.
        open_gop: Whether a frame is shown before the keyframe that it follows in the file.
    """

    num_frames: int
    fps: tuple[int, int]
    size: tuple[int, int]
    rotation: int
    codec: str
    duration_seconds: float
    sha256: bytes
    keyframes: Keyframes
    path: str = ""
    file_bytes: int = 0
    modified_ns: int = 0
    label: int = -1
    group: str = ""
    pixel_format: str = ""
    profile: str = ""
    colour_space: int = 2
    num_packets: int = 0
    num_repeats: int = 0
    num_untimed: int = 0
    first_pts: int = 0
    last_pts: int = 0
    open_gop: int = 0


@dataclass(frozen=True)
class Column:
    """One fact of N videos: N texts, or an array [N] or [N, width].

    Attributes:
        name: The field of `VideoIndex`.
        attribute: The field of `Video`.
        dtype: Type of the array; "" for texts.
        width: Values per video.
        later: Whether files by an older fastdual do not have it: it is then empty or 0.
    """

    name: str
    attribute: str
    dtype: str = ""
    width: int = 1
    later: bool = False

    def of(self, videos: Sequence[Video]) -> Any:
        """Return the column of some videos."""
        values = [getattr(video, self.attribute) for video in videos]
        if not self.dtype:
            return tuple(values)
        is_bytes = self.dtype == "u1"
        array = np.frombuffer(b"".join(values), "u1") if is_bytes else np.array(values, self.dtype)
        return array.reshape(self.shape(len(videos)))

    def blank(self, count: int) -> Any:
        """Return a column that says nothing of `count` videos."""
        return np.zeros(self.shape(count), self.dtype) if self.dtype else ("",) * count

    def shape(self, count: int) -> tuple[int, ...]:
        """Return the shape of the array for `count` videos."""
        return (count,) if self.width == 1 else (count, self.width)

    def value(self, column: Any, row: int) -> Any:
        """Return what a column says of one video, as the field of `Video`."""
        value = column[row]
        if isinstance(value, np.ndarray):
            return value.tobytes() if self.dtype == "u1" else tuple(value.tolist())
        return value.item() if self.dtype else value

    def take(self, column: Any, rows: Any) -> Any:
        """Return the column of the videos in `rows` (numbers, in that order)."""
        return column[rows] if self.dtype else tuple(column[row] for row in rows)


COLUMNS = (
    Column("paths", "path"),
    Column("codecs", "codec"),
    Column("groups", "group"),
    Column("num_frames", "num_frames", "i8"),
    Column("fps", "fps", "i8", 2),
    Column("size", "size", "i4", 2),
    Column("rotation", "rotation", "i2"),
    Column("duration_seconds", "duration_seconds", "f8"),
    Column("file_bytes", "file_bytes", "i8"),
    Column("modified_ns", "modified_ns", "i8"),
    Column("sha256", "sha256", "u1", 32),
    Column("labels", "label", "i4"),
    Column("pixel_formats", "pixel_format", later=True),
    Column("profiles", "profile", later=True),
    Column("colour_spaces", "colour_space", "i2", later=True),
    Column("num_packets", "num_packets", "i8", later=True),
    Column("num_repeats", "num_repeats", "i8", later=True),
    Column("num_untimed", "num_untimed", "i8", later=True),
    Column("first_pts", "first_pts", "i8", later=True),
    Column("last_pts", "last_pts", "i8", later=True),
    Column("open_gop", "open_gop", "i1", later=True),
)
KEYFRAMES = {"keyframe_frames": "frames", "keyframe_pts": "pts", "keyframe_bytes": "offsets"}
"""Column of all keyframes to the field of `Keyframes`; `keyframe_offsets` says whose they are."""


def columns_of(videos: Sequence[Video]) -> dict[str, Any]:
    """Return the fields of a `VideoIndex` that describe some videos (at least one)."""
    tables = [video.keyframes for video in videos]
    counts = [len(table.frames) for table in tables]
    fields = {column.name: column.of(videos) for column in COLUMNS}
    for name, part in KEYFRAMES.items():
        fields[name] = np.concatenate([getattr(table, part) for table in tables])
    return {**fields, "keyframe_offsets": np.cumsum([0, *counts], dtype=np.int64)}
