"""The encoded bytes of a video that is known: a file, or a place in a pack, checked when read.

Whatever is decoded is what was indexed: bytes that were altered since, by whomever, are an error
and never another picture. SHA-256 takes far less time than decoding.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastdual.errors import FailureError

_REMEMBERED_FILES = 1 << 16  # of a process; a film need not be read whole for each of its clips


@dataclass(frozen=True)
class IndexedFile:
    """One video in a file of its own.

    Attributes:
        path: The file.
        length: Its bytes.
        sha256: Their checksum when it was indexed.
    """

    path: Path
    length: int
    sha256: bytes

    def __len__(self) -> int:
        return self.length

    def check(self) -> None:
        """Compare the file with its checksum, once in this process unless it is written to.

        Raises:
            OSError: It cannot be read.
            FailureError: It is not what was indexed.
        """
        status = os.stat(self.path)
        if not _is_intact(self, status.st_size, status.st_mtime_ns):
            raise FailureError(_ALTERED)

    def read(self) -> bytes:
        """Return the encoded bytes; raises as `check` does."""
        contents = self.path.read_bytes()
        if hashlib.sha256(contents).digest() != self.sha256:
            raise FailureError(_ALTERED)
        return contents


_ALTERED = "the file was changed after it was indexed: run fastdual index again"


@functools.lru_cache(_REMEMBERED_FILES)
def _is_intact(indexed: IndexedFile, size: int, modified_ns: int) -> bool:
    if size != indexed.length:
        return False
    with open(indexed.path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest() == indexed.sha256


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


Encoded = IndexedFile | PackedBytes


def read_encoded(encoded: Encoded) -> NDArray[np.uint8]:
    """Return the encoded bytes of a video; raises OSError or FailureError."""
    return np.frombuffer(encoded.read(), np.uint8)
