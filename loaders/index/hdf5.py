"""HDF5 files behind a checksum, whose arrays somebody else may have written.

    fastdual-index 2          user block of 512 bytes: kind and version,
    sha256 5f1c...            checksum of all that follows the block,
    (zeros up to byte 512)
    (HDF5)                    arrays of plain numbers; texts as bytes and offsets

The checksum is compared before the HDF5 library sees a byte, so that a truncated or altered file is
one clear error and never a crash inside that library. HDF5 offers more than is needed here: a
dataset may claim any size without having it, unfold from a few bytes, lie in another file or be a
link to one, or hold pointers. None of that is followed.
"""

import hashlib
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
from numpy.typing import NDArray

from fastdual.errors import InputError
from fastdual.loaders.files import write

USER_BLOCK = 512
UNREADABLE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What reading an HDF5 file raises where its contents are not what was written."""

T = TypeVar("T")
_MAX_BYTES = 1 << 36
_PLAIN_LAYOUTS = (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT)


class Tables:
    """Reads the arrays of an open HDF5 file, in all no more bytes than it has.

    Args:
        file: The open file.
        num_bytes: What its arrays take; each is read once, so that this bounds the memory.
    """

    def __init__(self, file: Any, num_bytes: int) -> None:
        self._file, self._left = file, num_bytes

    def array(self, name: str) -> NDArray[Any]:
        """Return a dataset.

        Raises:
            KeyError: There is none in this file itself.
            ValueError: It is not stored as plain numbers, or is larger than the file.
        """
        parts = name.split("/")
        for depth in range(1, len(parts) + 1):
            link = self._file.get("/".join(parts[:depth]), getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise KeyError(f"{name} is missing or a link")
        dataset = self._file[name]
        if not isinstance(dataset, h5py.Dataset):
            raise ValueError(f"{name} is not a table")
        creation = dataset.id.get_create_plist()
        is_plain = creation.get_layout() in _PLAIN_LAYOUTS and not creation.get_external_count()
        if not is_plain or dataset.dtype.kind not in "iuf" or dataset.shape is None:
            raise ValueError(f"{name} is not stored as plain numbers")
        if dataset.nbytes != dataset.id.get_storage_size() or dataset.nbytes > self._left:
            raise ValueError(f"{name} claims {dataset.nbytes:,} bytes, which are not there")
        self._left -= dataset.nbytes
        return np.asarray(dataset[()])

    def texts(self, name: str) -> tuple[str, ...]:
        """Return what `write_texts` stored; raises as `array` does."""
        blob, offsets = self.array(f"{name}/bytes").tobytes(), self.array(f"{name}/offsets")
        if offsets.ndim != 1 or offsets.dtype != "i8" or np.any(np.diff(offsets, prepend=0) < 0):
            raise ValueError(f"the offsets of {name} are wrong")
        ends = offsets.tolist()
        return tuple(os.fsdecode(blob[a:b]) for a, b in zip(ends, ends[1:], strict=False))


@dataclass(frozen=True)
class Container:
    """A kind of HDF5 file with a user block; its messages name the file, the cause and the remedy.

    Attributes:
        magic: The first bytes, with a space at their end.
        version: Of the format; others are refused.
        noun: With its article: "an index".
        maker: The command that makes such a file.
        remedy: What to do with a file that cannot be read: "build it again".
        reads: The versions that can be read, in words; "" for this one alone.
    """

    magic: bytes
    version: int
    noun: str
    maker: str
    remedy: str
    reads: str = ""

    def claims(self, path: Path) -> bool:
        """Say whether a file claims to be of this kind, of whatever version."""
        try:
            with open(path, "rb") as file:
                return file.read(len(self.magic)) == self.magic
        except OSError:
            return False

    def named(self, path: Path) -> str:
        """Return the file with its kind, as messages begin: "the index x.h5"."""
        return f"the {self.noun.partition(' ')[2]} {path}"

    def header(self, digest: str) -> bytes:
        """Return the start of the user block."""
        return b"%s%d\nsha256 %s\n" % (self.magic, self.version, digest.encode())

    def check_version(self, path: Path, block: bytes) -> None:
        """Refuse a user block of another kind or version.

        Raises:
            InputError: Names the remedy.
        """
        if not block.startswith(self.magic):
            raise InputError(f"{path} is not {self.noun} of fastdual; make one with {self.maker}")
        version = block[len(self.magic) : USER_BLOCK].partition(b"\n")[0]
        if version != b"%d" % self.version:
            raise InputError(
                f"{self.named(path)} has format {version[:20].decode(errors='replace')}, this "
                f"fastdual reads {self.reads or self.version}: {self.remedy}"
            )

    def write(self, path: Path, fill: Callable[[Any], None]) -> None:
        """Write a file whole or not at all.

        Args:
            path: The file.
            fill: Puts its arrays into the open HDF5 file.

        Raises:
            FailureError: It cannot be written, for instance because the disk is full.
        """
        stream = io.BytesIO()
        with h5py.File(stream, "w", userblock_size=USER_BLOCK) as file:
            fill(file)
        body = stream.getbuffer()[USER_BLOCK:]
        header = self.header(hashlib.sha256(body).hexdigest()).ljust(USER_BLOCK, b"\0")
        write(path, header + body, f"the {self.noun.partition(' ')[2]}")

    def read(self, path: Path, decode: Callable[[Any, Tables], T]) -> T:
        """Read a file whose checksum fits.

        Args:
            path: The file.
            decode: Makes the result out of the open HDF5 file and the reader of its arrays.

        Raises:
            InputError: It is missing, foreign, truncated, altered or of another version.
        """
        content = self._read_checked(path)
        try:
            with h5py.File(io.BytesIO(content), "r") as file:
                return decode(file, Tables(file, len(content)))
        except UNREADABLE as error:
            cause = str(error).partition("\n")[0]
            raise InputError(f"{self.named(path)} is corrupt ({cause}); {self.remedy}") from error

    def _read_checked(self, path: Path) -> bytes:
        try:
            if path.stat().st_size > _MAX_BYTES:
                raise InputError(f"{path} is too large to be {self.noun}")
            content = path.read_bytes()
        except OSError as error:
            raise InputError(f"{self.named(path)} cannot be read: {error.strerror}") from error
        self.check_version(path, content)
        digest = hashlib.sha256(memoryview(content)[USER_BLOCK:]).hexdigest()
        if len(content) <= USER_BLOCK or not content.startswith(self.header(digest)):
            raise InputError(f"{self.named(path)} is truncated or was altered; {self.remedy}")
        return content


def write_texts(file: Any, name: str, texts: Sequence[str]) -> None:
    """Store texts as bytes and offsets.

    Args:
        file: The open HDF5 file, or a group of it.
        name: The group made for them.
        texts: File names among them need not be UTF-8.
    """
    parts = [os.fsencode(text) for text in texts]
    file[f"{name}/bytes"] = np.frombuffer(b"".join(parts), np.uint8)
    file[f"{name}/offsets"] = np.cumsum([0, *map(len, parts)], dtype=np.int64)
