"""The file of an index: HDF5 behind a checksum.

The file starts with a 512-byte user block that holds the version and the SHA-256 of all that
follows. It is checked before the HDF5 library sees a byte, so that a truncated or altered file is
one clear error and never a crash inside that library. Texts are stored as bytes and offsets.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from fastdual.errors import InputError
from fastdual.loaders.index.hdf5 import Tables, write_texts

if TYPE_CHECKING:
    from fastdual.loaders.index.table import VideoIndex

_MAGIC = b"fastdual-index "
_VERSION = 2
_USER_BLOCK = 512
_MAX_BYTES = 1 << 36

TEXTS = ("paths", "codecs", "class_names", "groups")
ARRAYS: dict[str, tuple[str, int]] = {  # dtype, values per video
    "num_frames": ("i8", 1),
    "fps": ("i8", 2),
    "size": ("i4", 2),
    "rotation": ("i2", 1),
    "duration_seconds": ("f8", 1),
    "file_bytes": ("i8", 1),
    "modified_ns": ("i8", 1),
    "sha256": ("u1", 32),
    "labels": ("i4", 1),
}
KEYFRAMES = ("keyframe_frames", "keyframe_pts", "keyframe_bytes")


def is_index(path: Path) -> bool:
    """Say whether a file claims to be an index, of whatever version."""
    try:
        with open(path, "rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def read(path: Path, root: Path | None) -> dict[str, Any]:
    """Return the fields of the VideoIndex in a file; `root` replaces the folder stored in it.

    Raises:
        InputError: It is missing, foreign, truncated, altered or of another version.
    """
    body = _read_checked(path)
    try:
        with h5py.File(io.BytesIO(body), "r") as file:
            fields = read_fields(file, Tables(file, len(body)))
            fields["root"] = _root(file, path.absolute().parent) if root is None else root
            fields["root"] = fields["root"].absolute()
            return fields
    except (OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise InputError(f"the index {path} is corrupt ({error}); build it again") from error


def encode(index: VideoIndex, folder: Path) -> bytes:
    """Return the contents of the file of an index that will lie in `folder`."""
    body = _to_hdf5(index, folder)
    header = b"%s%d\nsha256 %s\n" % (_MAGIC, _VERSION, _digest(body).encode())
    return header.ljust(_USER_BLOCK, b"\0") + body[_USER_BLOCK:]


def write_atomically(path: Path, contents: bytes) -> None:
    """Write a file so that at any moment either the old or the new one is there; raises OSError."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(contents)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder last; raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(body: bytes) -> str:
    return hashlib.sha256(memoryview(body)[_USER_BLOCK:]).hexdigest()


def _read_checked(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path} is too large to be an index")
        body = path.read_bytes()
    except OSError as error:
        raise InputError(f"the index {path} cannot be read: {error.strerror}") from error
    if not body.startswith(_MAGIC):
        raise InputError(f"{path} is not an index of fastdual; make one with fastdual index")
    header = body[len(_MAGIC) : _USER_BLOCK].split(b"\n")
    if header[0] != b"%d" % _VERSION:
        version = header[0][:20].decode(errors="replace")
        raise InputError(
            f"the index {path} has format {version}, this fastdual reads {_VERSION}: build it again"
        )
    if len(body) <= _USER_BLOCK or header[1] != b"sha256 " + _digest(body).encode():
        raise InputError(f"the index {path} is truncated or was altered; build it again")
    return body


# ---- HDF5


def _to_hdf5(index: VideoIndex, folder: Path) -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w", userblock_size=_USER_BLOCK) as file:
        file.attrs["root"] = np.void(os.fsencode(index.root))
        file.attrs["root_relative"] = np.void(os.fsencode(os.path.relpath(index.root, folder)))
        write_fields(file, index)
    return stream.getvalue()


def write_fields(file: Any, index: VideoIndex) -> None:
    """Put what an index knows of its videos into an open HDF5 file: all but where they lie."""
    file.attrs["fingerprint"] = index.fingerprint
    file.attrs["probed_by"] = index.probed_by
    for name in TEXTS:
        write_texts(file, name, getattr(index, name))
    for name in (*ARRAYS, "keyframe_offsets", *KEYFRAMES):
        file[name] = getattr(index, name)
    splits = sorted(index.splits)
    write_texts(file, "splits", splits)
    for number, name in enumerate(splits):
        file[f"splits/{number}"] = index.splits[name]
    write_texts(file, "quarantine/paths", [path for path, _ in index.quarantine])
    write_texts(file, "quarantine/reasons", [reason for _, reason in index.quarantine])
    file["quarantine/stamps"] = index.quarantine_stamps


def read_fields(file: Any, tables: Tables) -> dict[str, Any]:
    """Return what `write_fields` wrote: the fields of the VideoIndex but `root`."""
    values: dict[str, Any] = {name: tables.texts(name) for name in TEXTS}
    for name in (*ARRAYS, "keyframe_offsets", *KEYFRAMES):
        values[name] = tables.array(name)
    names = tables.texts("splits")
    values["splits"] = {name: tables.array(f"splits/{n}") for n, name in enumerate(names)}
    paths, reasons = tables.texts("quarantine/paths"), tables.texts("quarantine/reasons")
    values["quarantine"] = tuple(zip(paths, reasons, strict=True))
    values["quarantine_stamps"] = tables.array("quarantine/stamps")
    values["probed_by"] = str(file.attrs["probed_by"])
    return values


def _root(file: Any, folder: Path) -> Path:
    root = Path(os.path.normpath(folder / os.fsdecode(bytes(file.attrs["root_relative"]))))
    return root if root.is_dir() else Path(os.fsdecode(bytes(file.attrs["root"])))
