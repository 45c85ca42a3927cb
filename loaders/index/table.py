"""The index of a set of videos as it is used: arrays with one row per video."""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fastdual.errors import InputError
from fastdual.loaders.decode.encoded import Encoded, IndexedFile, PackedBytes
from fastdual.loaders.decode.frame_order import FrameOrder
from fastdual.loaders.decode.keyframes import Keyframes
from fastdual.loaders.index.places import Packed
from fastdual.loaders.index.video import COLUMNS, KEYFRAMES, Video, columns_of

_NOT_CONTENTS = {"root", "modified_ns", "probed_by", "quarantine", "quarantine_stamps"}
# A pack is a copy of the same bytes: a run may continue with the pack of its index.
_NOT_CONTENTS |= {"packed"}
# Runs and packs of an index by an older fastdual, which does not have them, fit a new one.
_NOT_CONTENTS |= {column.name for column in COLUMNS if column.later}
# In the paths joined by NUL: an empty one, an absolute one, or one with a part "." or "..".
_ESCAPES = re.compile(r"(^|\0)(/|\0|\Z)|(^|[\0/])\.\.?([\0/]|\Z)")


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """N usable videos of a data set, and what is known about them (see `Video`).

    Attributes:
        root: Absolute folder that `paths` are relative to.
        paths, codecs, groups, pixel_formats, profiles: [N] texts, `paths` sorted.
        num_frames, file_bytes, modified_ns: [N] int64.
        num_packets, num_repeats, num_untimed, first_pts, last_pts: [N] int64.
        colour_spaces, open_gop: [N] int16, int8.
        fps, size: [N, 2] int64 numerator, denominator; int32 height, width.
        rotation, labels: [N] int16, int32.
        duration_seconds: [N] float64.
        sha256: [N, 32] uint8.
        keyframe_offsets: [N + 1] int64: video v has keyframes `offsets[v]:offsets[v + 1]`.
        keyframe_frames, keyframe_pts, keyframe_bytes: [K] int64, see `Keyframes`.
        class_names: The names of the classes, by label.
        splits: Name to sorted video numbers, int64.
        quarantine: (path, reason) of the videos that cannot be used.
        quarantine_stamps: [Q, 2] int64, their sizes and times.
        probed_by: Version of what examined the videos and of libav.
        packed: Where the videos lie in a pack; None where they are files. `root` is then the pack
            itself, and `path` a name for messages.

    Raises:
        InputError: The arrays contradict each other.
    """

    root: Path
    paths: tuple[str, ...]
    num_frames: NDArray[np.int64]
    fps: NDArray[np.int64]
    size: NDArray[np.int32]
    rotation: NDArray[np.int16]
    codecs: tuple[str, ...]
    duration_seconds: NDArray[np.float64]
    file_bytes: NDArray[np.int64]
    modified_ns: NDArray[np.int64]
    sha256: NDArray[np.uint8]
    keyframe_offsets: NDArray[np.int64]
    keyframe_frames: NDArray[np.int64]
    keyframe_pts: NDArray[np.int64]
    keyframe_bytes: NDArray[np.int64]
    labels: NDArray[np.int32]
    pixel_formats: tuple[str, ...]
    profiles: tuple[str, ...]
    colour_spaces: NDArray[np.int16]
    num_packets: NDArray[np.int64]
    num_repeats: NDArray[np.int64]
    num_untimed: NDArray[np.int64]
    first_pts: NDArray[np.int64]
    last_pts: NDArray[np.int64]
    open_gop: NDArray[np.int8]
    class_names: tuple[str, ...]
    groups: tuple[str, ...]
    splits: Mapping[str, NDArray[np.int64]]
    quarantine: tuple[tuple[str, str], ...] = ()
    quarantine_stamps: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    probed_by: str = ""
    packed: Packed | None = None

    @classmethod
    def of(cls, videos: Sequence[Video], **others: Any) -> Self:
        """Return the index of some videos; `others` are the fields that are not per video."""
        return cls(**columns_of(videos), **others)

    def __len__(self) -> int:
        return len(self.paths)

    def __repr__(self) -> str:
        splits = ", ".join(f"{name} {len(rows):,}" for name, rows in self.splits.items()) or "none"
        return (
            f"VideoIndex({len(self):,} videos in {self.root}, {len(self.class_names):,} classes, "
            f"splits: {splits})"
        )

    def __post_init__(self) -> None:
        _check(self)

    def path(self, video: int) -> Path:
        """Return where a video lies; of a packed one this is just its name."""
        return self.root / self.paths[video]

    def source(self, video: int) -> Encoded:
        """Return what a video is read from: its file, or its place in a pack."""
        length, sha256 = int(self.file_bytes[video]), self.sha256[video].tobytes()
        if self.packed is None:
            return IndexedFile(self.path(video), length, sha256)
        file, offset = self.packed.place(video)
        return PackedBytes(file, offset, length, sha256, Path(self.paths[video]).suffix)

    @property
    def frame_stride(self) -> int:
        """The stride whose phases order the stored frames; 1 where they are stored as shown."""
        return 1 if self.packed is None else self.packed.frame_stride

    def frame_order(self, video: int) -> FrameOrder:
        """Return the order in which a video's frames are stored."""
        height, width = self.size[video].tolist()
        return FrameOrder(int(self.num_frames[video]), self.frame_stride, (height, width))

    def places(self, videos: NDArray[np.int64], frames: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where frames are stored in their videos: `frames` themselves, unless packed so.

        Args:
            videos: [B] numbers of the videos.
            frames: [B, ...] frames of each.
        """
        if self.frame_stride == 1:
            return frames
        rows = zip(videos.tolist(), frames, strict=True)
        return np.stack([self.frame_order(video).places_of(row) for video, row in rows])

    def keyframes(self, video: int) -> Keyframes | None:
        """Return a video's seek table, or None if it must be decoded from the start."""
        table = self._keyframes(video)
        return table if len(table.frames) else None

    def _keyframes(self, video: int) -> Keyframes:
        part = slice(*self.keyframe_offsets[video : video + 2].tolist())
        return Keyframes(
            **{name: getattr(self, column)[part] for column, name in KEYFRAMES.items()}
        )

    def video(self, video: int) -> Video:
        """Return all that is known of one video."""
        facts = {c.attribute: c.value(getattr(self, c.name), video) for c in COLUMNS}
        return Video(**facts, keyframes=self._keyframes(video))

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Return the index of some videos (`rows`: sorted numbers), its splits renumbered."""
        counts = np.diff(self.keyframe_offsets)
        kept = np.repeat(np.isin(np.arange(len(self)), rows), counts)
        renumbered = np.full(len(self), -1, np.int64)
        renumbered[rows] = np.arange(len(rows))
        splits = {name: renumbered[videos] for name, videos in self.splits.items()}
        return replace(
            self,
            splits={name: videos[videos >= 0] for name, videos in splits.items()},
            packed=None if self.packed is None else self.packed.take(rows),
            keyframe_offsets=np.cumsum([0, *counts[rows]], dtype=np.int64),
            **{column.name: column.take(getattr(self, column.name), rows) for column in COLUMNS},
            **{name: getattr(self, name)[kept] for name in KEYFRAMES},
        )

    def split(self, name: str | None) -> NDArray[np.int64]:
        """Return the video numbers of a split; None means all videos.

        Raises:
            InputError: There is no such split, or it is empty; lists the names.
        """
        if name is None:
            return np.arange(len(self), dtype=np.int64)
        if name not in self.splits:
            known = ", ".join(sorted(self.splits)) or "none"
            raise InputError(f"the index has no split {name!r}; its splits: {known}")
        if len(self.splits[name]) == 0:
            raise InputError(
                f"the split {name!r} has no usable video: fastdual index FILE --show says why"
            )
        return self.splits[name]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of everything that decides what is loaded; where the files lie does not."""
        digest = hashlib.sha256()
        for part in fields(self):
            if part.name not in _NOT_CONTENTS:
                digest.update(f"{part.name}:".encode())
                digest.update(_to_bytes(getattr(self, part.name)))
        return digest.hexdigest()


def _to_bytes(value: Any) -> bytes:
    if isinstance(value, np.ndarray):
        return str(value.shape).encode() + np.ascontiguousarray(value).tobytes()
    if isinstance(value, Mapping):
        return b"".join(os.fsencode(f"{k}=") + _to_bytes(value[k]) for k in sorted(value))
    return b"\0".join(os.fsencode(str(part)) for part in value)


def _check(index: VideoIndex) -> None:
    """Refuse an index that contradicts itself; nothing read from a file is used unchecked."""
    count = len(index.paths)

    def require(condition: Any, what: str) -> None:
        if not bool(condition):
            raise InputError(what)

    for column in COLUMNS:
        values = getattr(index, column.name)
        if not column.dtype:
            fits = len(values) == count
        else:
            fits = values.shape == column.shape(count) and values.dtype == column.dtype
        require(fits, f"{column.name} has the wrong shape")
    require(count > 0, "it holds no video")
    require(np.all(index.num_frames > 0), "a video has no frames")
    require(np.all(index.size > 0) and np.all(index.size <= 1 << 16), "a frame size is absurd")
    require(np.all(np.isin(index.rotation, (0, 90, 180, 270))), "a rotation is not a right angle")
    require(np.all(index.labels >= -1), "a label is negative")
    require(np.all(index.labels < max(1, len(index.class_names))), "a label has no class name")
    offsets = index.keyframe_offsets
    require(offsets.shape == (count + 1,) and offsets.dtype == "i8", "keyframe_offsets are wrong")
    require(offsets[0] == 0 and np.all(np.diff(offsets) >= 0), "keyframe_offsets are not sorted")
    for name in KEYFRAMES:
        array = getattr(index, name)
        require(array.shape == (offsets[-1],) and array.dtype == "i8", f"{name} is wrong")
    for name, videos in index.splits.items():
        require(videos.ndim == 1 and videos.dtype == "i8", f"the split {name!r} is wrong")
        inside = len(videos) == 0 or (videos[0] >= 0 and videos[-1] < count)
        require(inside and np.all(np.diff(videos) > 0), f"the split {name!r} is not sorted")
    stamps = index.quarantine_stamps
    fits = stamps.shape == (len(index.quarantine), 2) and stamps.dtype == "i8"
    require(fits, "quarantine_stamps are wrong")
    if index.packed is not None:
        require(index.packed.fits(index.file_bytes), "the places of the packed videos are wrong")
    paths = "\0".join(index.paths)
    require(not _ESCAPES.search(paths), "a path leads out of the root")
    require(paths.count("\0") == count - 1, "a path holds a zero byte")
