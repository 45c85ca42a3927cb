"""The index of a set of videos as it is used: arrays, one row a video."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fastdual.errors import FailureError, InputError, why_not_written
from fastdual.loaders.decode.encoded import Encoded, IndexedFile, PackedBytes
from fastdual.loaders.decode.keyframes import Keyframes
from fastdual.loaders.index import file as index_file
from fastdual.loaders.index import pack_file
from fastdual.loaders.index.file import ARRAYS, KEYFRAMES
from fastdual.loaders.index.paths import refuse_special
from fastdual.loaders.index.places import Packed

_CHECKED_FILES = 20_000  # files looked for when an index is opened; of more, an even sample
_NOT_CONTENTS = {"root", "modified_ns", "probed_by", "quarantine", "quarantine_stamps"}
_NOT_CONTENTS |= {"packed"}  # a copy of the same bytes: a run may go on with the pack of its index
# In the paths joined by NUL: an empty one, an absolute one, or one with a part "." or "..".
_ESCAPES = re.compile(r"(^|\0)(/|\0|\Z)|(^|[\0/])\.\.?([\0/]|\Z)")


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """N usable videos of a data set, and what is known about them.

    Attributes:
        root: Absolute folder that `paths` are relative to.
        paths: [N], sorted.
        num_frames: [N] frames that a full decode yields, exactly.
        fps: [N, 2] numerator, denominator; 0/1 where unknown.
        size: [N, 2] height, width of the decoded frames, before rotation.
        rotation: [N] clockwise degrees (0, 90, 180, 270) that make a decoded frame upright.
        codecs: [N] libav's names.
        duration_seconds: [N].
        file_bytes, modified_ns: [N] the file's size and time when it was probed.
        sha256: [N, 32] checksum of its bytes then; of a packed video, of those in the pack.
        keyframe_offsets: [N + 1] video v has keyframes `offsets[v]:offsets[v + 1]`; none where only
            decoding from the start is sound.
        keyframe_frames, keyframe_pts, keyframe_bytes: [K] see `video.Keyframes`.
        labels: [N] class numbers, -1 where there is none.
        class_names: The classes.
        groups: [N] what a video was cut from (signer, film, ...), "" where unknown.
        splits: Name to sorted video numbers.
        quarantine: (path, reason) of the videos that cannot be used.
        quarantine_stamps: [Q, 2] their sizes and times.
        probed_by: Version of the prober and of libav.
        packed: Where the videos lie in a pack; None where they are files. `root` is then the pack
            itself, and `path` a name for messages.
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
    class_names: tuple[str, ...]
    groups: tuple[str, ...]
    splits: Mapping[str, NDArray[np.int64]]
    quarantine: tuple[tuple[str, str], ...] = ()
    quarantine_stamps: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    probed_by: str = ""
    packed: Packed | None = None

    def __len__(self) -> int:
        return len(self.paths)

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

    def keyframes(self, video: int) -> Keyframes | None:
        """Return a video's seek table, or None if it must be decoded from the start."""
        part = slice(int(self.keyframe_offsets[video]), int(self.keyframe_offsets[video + 1]))
        if part.start == part.stop:
            return None
        return Keyframes(*(getattr(self, name)[part] for name in KEYFRAMES))

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

    def check_files(self) -> None:
        """Make sure that the files are still there and unchanged in size (a sample of very many).

        Raises:
            InputError: Names the first file and the remedy.
        """
        if self.packed is not None:
            self.packed.check_files(self.file_bytes)
            return
        step = -(-len(self) // _CHECKED_FILES) or 1
        missing, changed = [], []
        videos = range(0, len(self), step)
        for video in videos:
            try:
                size = self.path(video).stat().st_size
            except OSError:
                missing.append(self.paths[video])
                continue
            if size != self.file_bytes[video]:
                changed.append(self.paths[video])
        if missing:
            raise InputError(
                f"{len(missing)} of {len(videos)} videos of the index are not under {self.root} "
                f"(first: {missing[0]}): if they were moved, name the new folder with --root"
            )
        if changed:
            raise InputError(
                f"{len(changed)} of {len(videos)} videos changed since they were indexed (first: "
                f"{self.root / changed[0]}): run fastdual index again"
            )

    def save(self, path: Path) -> None:
        """Write the index atomically: a temporary file beside it, fsync, rename.

        Raises:
            FailureError: It cannot be written, for instance because the disk is full.
        """
        if self.packed is not None:
            raise ValueError("the index of a pack is saved in the pack")
        path = Path(path).absolute()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            index_file.write_atomically(path, index_file.encode(self, path.parent))
        except OSError as error:
            raise FailureError(
                f"cannot write the index {path}: {why_not_written(error)}"
            ) from error

    @classmethod
    def load(cls, path: Path, *, root: Path | None = None) -> Self:
        """Read an index or the index of a pack.

        Args:
            path: The index file or the pack.
            root: Replaces the folder of the videos that the index states; for a pack, the folder
                of its shards.

        Raises:
            InputError: It is missing, foreign, truncated, altered or of another version.
        """
        refuse_special(Path(path))
        kind = pack_file if pack_file.is_pack(Path(path)) else index_file
        contents = kind.read(Path(path), root)
        try:
            return cls(**contents)
        except InputError as error:
            raise InputError(f"{path} contradicts itself ({error}); make it again") from error


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

    for name, (dtype, width) in ARRAYS.items():
        array = getattr(index, name)
        shape = (count,) if width == 1 else (count, width)
        require(array.shape == shape and array.dtype == dtype, f"{name} has the wrong shape")
    require(count > 0, "it holds no video")
    require(len(index.codecs) == count and len(index.groups) == count, "lists differ in length")
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
    require(stamps.shape == (len(index.quarantine), 2), "quarantine_stamps are wrong")
    if index.packed is not None:
        require(index.packed.fits(index.file_bytes), "the places of the packed videos are wrong")
    paths = "\0".join(index.paths)
    require(not _ESCAPES.search(paths), "a path leads out of the root")
    require(paths.count("\0") == count - 1, "a path holds a zero byte")
