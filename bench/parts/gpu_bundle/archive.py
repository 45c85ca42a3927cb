"""A folder as one compressed archive in numbered parts, each small enough to be carried."""

import hashlib
import io
import itertools
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

from fastdual.errors import FailureError, InputError
from fastdual.loaders import files

_NAME = "bundle.tar.xz"
_LIST = "parts.json"


class _Parts(io.RawIOBase):
    """Writes what it gets into files of at most so many bytes."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder, self._most = folder, most_bytes
        self._part = bytearray()
        self.sums: dict[str, str] = {}

    def writable(self) -> bool:
        return True

    def write(self, data: "bytes | memoryview") -> int:  # type: ignore[override]
        self._part += data
        while len(self._part) >= self._most:
            self._store(self._part[: self._most])
            del self._part[: self._most]
        return len(data)

    def finish(self) -> None:
        if self._part:
            self._store(self._part)

    def _store(self, part: bytearray) -> None:
        name = f"{_NAME}.{len(self.sums):02d}"
        files.write(self._folder / name, bytes(part), "a part of the bundle")
        self.sums[name] = hashlib.sha256(part).hexdigest()


def write_parts(source: Path, folder: Path, *, part_mib: int) -> list[Path]:
    """Compress a folder into parts; return their paths.

    Args:
        source: What is carried.
        folder: Where the parts and their checksums go; parts of an earlier call are deleted.
        part_mib: No part is larger.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{_NAME}.*"):
        old.unlink()
    parts = _Parts(folder, part_mib << 20)
    with tarfile.open(fileobj=parts, mode="w|xz") as archive:
        archive.add(source, arcname=".")
    parts.finish()
    files.write(folder / _LIST, json.dumps(parts.sums, indent=1) + "\n", "the list of parts")
    return [folder / name for name in parts.sums]


def read_parts(folder: Path, target: Path) -> None:
    """Check the parts in a folder and unpack them.

    Raises:
        InputError: There is no list of parts.
        FailureError: A part is missing or damaged.
    """
    if not (folder / _LIST).is_file():
        raise InputError(
            f"{folder} has no {_LIST}: carry all that gpu_bundle wrote into one folder"
        )
    sums: dict[str, str] = json.loads((folder / _LIST).read_text())
    for name, expected in sums.items():
        path = folder / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise FailureError(f"{path} is missing or damaged: carry it again")
    target.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=_Joined(folder / name for name in sums), mode="r|xz") as archive:
        archive.extractall(target, filter="data")


class _Joined(io.RawIOBase):
    """Reads files one after the other."""

    def __init__(self, paths: Iterator[Path]) -> None:
        self._chunks = itertools.chain.from_iterable(map(_chunks, paths))
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        if not self._left:
            self._left = next(self._chunks, b"")
        taken = self._left[: len(buffer)]
        buffer[: len(taken)] = taken
        self._left = self._left[len(taken) :]
        return len(taken)


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            yield chunk
