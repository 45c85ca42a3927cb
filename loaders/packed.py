"""Where packed videos lie, and how one is read: at its place, without locks, its bytes checked."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdual.loaders.errors import FailureError, InputError


@dataclass(frozen=True)
class PackedBytes:
    """One encoded video in a file of a pack.

    Attributes:
        file: The pack, or one of its shards.
        offset: Its first byte in the file.
        length: Its bytes.
        sha256: Their checksum.
        suffix: Ending of the file that was packed: libav looks at it when it guesses a format.
    """

    file: Path
    offset: int
    length: int
    sha256: bytes
    suffix: str

    def __len__(self) -> int:
        return self.length

    def open(self) -> io.BytesIO:
        """Return the encoded bytes as a file with a name; raises as `read` does."""
        file = _NamedBytes(self.read())
        file.name = f"video{self.suffix}"
        return file

    def read(self) -> bytes:
        """Return the encoded bytes.

        Any number of processes may read at a time. SHA-256 takes about as long as copying the
        bytes, far less than decoding them, so it is checked each time.

        Raises:
            FailureError: They cannot be read, or are not what was packed.
        """
        try:
            with _opened(self.file) as descriptor:
                contents = read_at(descriptor, self.offset, self.length)
        except OSError as error:
            raise FailureError(f"the pack {self.file} cannot be read: {error.strerror}") from error
        if len(contents) < self.length:
            raise FailureError(f"the pack {self.file} is truncated: this video is not all there")
        if hashlib.sha256(contents).digest() != self.sha256:
            raise FailureError(f"its bytes in the pack {self.file} were altered: pack it again")
        return contents


class _NamedBytes(io.BytesIO):
    name: str


def read_encoded(source: Path | PackedBytes) -> NDArray[np.uint8]:
    """Return the encoded bytes of a video; raises OSError or FailureError."""
    if isinstance(source, PackedBytes):
        return np.frombuffer(source.read(), np.uint8)
    return np.fromfile(source, np.uint8)


@contextmanager
def _opened(file: Path) -> Iterator[int]:
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_at(descriptor: int, offset: int, length: int) -> bytes:
    """Read `length` bytes at `offset`, fewer only where the file ends; raises OSError."""
    contents = os.pread(descriptor, length, offset)
    if len(contents) == length:
        return contents
    parts = [contents]  # Linux reads 2 GiB at most in one call
    while len(parts[-1]) and sum(map(len, parts)) < length:
        done = sum(map(len, parts))
        parts.append(os.pread(descriptor, length - done, offset + done))
    return b"".join(parts)


@dataclass(frozen=True, eq=False)
class Shard:
    """A file of a pack as the pack's table describes it.

    Attributes:
        file: Where it lies.
        start, length: The bytes of its encoded videos.
        digest: Checksum of its own tables: tells this shard from another of the same name.
    """

    file: Path
    start: int
    length: int
    digest: str


@dataclass(frozen=True, eq=False)
class Packed:
    """Where the N videos of a pack lie; their lengths are the index's `file_bytes`.

    Attributes:
        shards: The files with the encoded videos: the pack itself, or its shards.
        shard_numbers: [N] int32.
        offsets: [N] int64, from the shard's `start`.
        sha256: [N, 32] uint8.
        source: Fingerprint of the index that was packed.
        settings: How, as JSON.
    """

    shards: tuple[Shard, ...]
    shard_numbers: NDArray[np.int32]
    offsets: NDArray[np.int64]
    sha256: NDArray[np.uint8]
    source: str
    settings: str

    def place(self, video: int, length: int, suffix: str) -> PackedBytes:
        """Return where a video lies."""
        shard = self.shards[self.shard_numbers[video]]
        offset = shard.start + int(self.offsets[video])
        return PackedBytes(shard.file, offset, length, self.sha256[video].tobytes(), suffix)

    def fits(self, lengths: NDArray[np.int64]) -> bool:
        """Say whether every video lies inside its shard, in a table of the right shape."""
        count = len(lengths)
        for array, dtype, shape in (
            (self.shard_numbers, "i4", (count,)),
            (self.offsets, "i8", (count,)),
            (self.sha256, "u1", (count, 32)),
        ):
            if array.dtype != dtype or array.shape != shape:
                return False
        numbers, offsets = self.shard_numbers, self.offsets
        if np.any(numbers < 0) or np.any(numbers >= len(self.shards)):
            return False
        room: Any = np.array([shard.length for shard in self.shards], np.int64)[numbers]
        inside = (lengths > 0) & (offsets >= 0) & (offsets <= room) & (lengths <= room - offsets)
        return bool(np.all(inside))

    def check_files(self, lengths: NDArray[np.int64]) -> None:
        """Make sure that every shard is there, whole, and the one that the table describes.

        Raises:
            InputError: Names the shard and the remedy.
        """
        from fastdual.loaders import pack_file  # it describes its files with this module

        for shard in self.shards:
            if not shard.file.is_file():
                raise InputError(
                    f"the shard {shard.file.name} of the pack is not in {shard.file.parent}: if "
                    "the shards were moved, name their folder with --root"
                )
            if pack_file.read_header(shard.file).digest != shard.digest:
                raise InputError(
                    f"the shard {shard.file} belongs to another pack, or was made anew: bring the "
                    "right one, or pack again"
                )
