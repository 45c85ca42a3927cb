"""The encoded bytes of an indexed video: a file, or a place in a pack, checked when read.

Only what was indexed is decoded: bytes that were altered since are an error and never another
picture. SHA-256 takes far less time than decoding.
"""

import functools
import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastdual.errors import FailureError, PassingError, is_passing
from fastdual.loaders.remote import fetch

_REMEMBERED_FILES = 1 << 16  # per process; a film is not read whole for each of its clips


@dataclass(frozen=True)
class IndexedFile:
    """One video in a file of its own.

    Attributes:
        path: The file.
        length: Its size in bytes.
        sha256: Checksum (32 bytes) when it was indexed.
    """

    path: Path
    length: int
    sha256: bytes

    def __len__(self) -> int:
        return self.length

    def check(self) -> None:
        """Compare the file with its checksum, once per process unless it is written to.

        Raises:
            OSError: It cannot be read.
            FailureError: It is not what was indexed.
        """
        fetch(self.path)
        status = os.stat(self.path)
        if not _is_intact(self, status.st_size, status.st_mtime_ns):
            raise FailureError(_ALTERED)

    def read(self) -> bytes:
        """Return the encoded bytes, or raise as `check` does."""
        fetch(self.path)
        contents = self.path.read_bytes()
        if hashlib.sha256(contents).digest() != self.sha256:
            raise FailureError(_ALTERED)
        return contents


_ALTERED = "the file was changed after it was indexed"


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
        length: Its size in bytes.
        sha256: Checksum (32 bytes) of its bytes.
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
        """Return the encoded bytes as a file with a name, or raise as `read` does."""
        file = _NamedBytes(self.read())
        file.name = f"video{self.suffix}"
        return file

    def read(self) -> bytes:
        """Return the encoded bytes, compared with their checksum; processes may read together.

        Raises:
            PassingError: They cannot be read now.
            FailureError: They cannot be read, or are not what was packed.
        """
        try:
            with open(self.file, "rb") as file:
                file.seek(self.offset)
                contents = file.read(self.length)
        except OSError as error:
            kind = PassingError if is_passing(error) else FailureError
            raise kind(f"the pack {self.file} cannot be read: {error.strerror}") from error
        if len(contents) < self.length:
            raise FailureError(f"the pack {self.file} is truncated: this video is not all there")
        if hashlib.sha256(contents).digest() != self.sha256:
            raise FailureError(f"its bytes in the pack {self.file} were altered: pack it again")
        return contents


class _NamedBytes(io.BytesIO):
    name: str


Encoded = IndexedFile | PackedBytes


def read_encoded(encoded: Encoded) -> NDArray[np.uint8]:
    """Return the encoded bytes of a video as uint8, or raise OSError or FailureError."""
    return np.frombuffer(encoded.read(), np.uint8)
