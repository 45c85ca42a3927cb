"""The file of a pack: an HDF5 file with an index and, contiguous in one dataset, encoded videos.

    0        512           start            start + length      end
    | header | HDF5 tables | data           | HDF5 tables       |
                           | video 0 | 1 |..|
                             ^ start + pack/offsets[0], file_bytes[0] bytes of it

The header is that of a `Container`, with the places of the data and a SHA-256 of the tables alone:
they are checked before the HDF5 library sees a byte, in a time that does not grow with the data.
Each video has a SHA-256 of its own, checked when it is read. A spool (`pack.spool`) grows the data
at their final place; `finish` puts header and tables around them.

A manifest is a pack without `data`: its videos lie in shards, each a pack on its own.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from fastdual.errors import InputError
from fastdual.loaders import files
from fastdual.loaders.index.fields import read_fields, write_fields
from fastdual.loaders.index.hdf5 import UNREADABLE, USER_BLOCK, Container, Tables, write_texts
from fastdual.loaders.index.places import Packed, Shard
from fastdual.loaders.index.table import VideoIndex

_PACK = Container(b"fastdual-pack ", 2, "a pack", "fastdual pack", "pack again")
_MAX_TABLE_BYTES = 1 << 36
_CHUNK_BYTES = 1 << 24

is_pack = _PACK.claims


@dataclass(frozen=True)
class Header:
    """What the user block states: the checksum of the tables, the place of the data, the size."""

    digest: str
    start: int
    length: int
    end: int

    def encode(self) -> bytes:
        """Return the user block."""
        return (_PACK.header(self.digest) + self.places()).ljust(USER_BLOCK, b"\0")

    def places(self) -> bytes:
        """Return the part of the user block that says where the data lie."""
        return b"data %d %d\nend %d\n" % (self.start, self.length, self.end)


def read_header(path: Path) -> Header:
    """Read the user block of a pack and compare it with the file's size.

    Raises:
        InputError: It is missing, foreign, truncated, altered or of another version.
    """
    try:
        with open(path, "rb") as file:
            block, size = file.read(USER_BLOCK), os.fstat(file.fileno()).st_size
    except OSError as error:
        raise InputError(f"the pack {path} cannot be read: {error.strerror}") from error
    _PACK.check_version(path, block)
    header = _parse(block)
    if header is None or header.encode() != block:
        raise InputError(f"the header of the pack {path} was altered; pack again")
    if size < header.end:
        raise InputError(
            f"the pack {path} is truncated: {size:,} of {header.end:,} bytes are there; copy or "
            "pack it again"
        )
    if size > header.end:
        raise InputError(f"the pack {path} was altered: it is longer than its header says")
    return header


def _parse(block: bytes) -> Header | None:
    words = block.split()
    try:
        digest = words[3].decode("ascii")
        header = Header(digest, int(words[5]), int(words[6]), int(words[8]))
    except (IndexError, ValueError):
        return None
    sound = USER_BLOCK <= header.start <= header.start + header.length <= header.end
    tables = header.end - header.length
    return header if sound and tables <= _MAX_TABLE_BYTES else None


def read(path: Path, root: Path | None) -> dict[str, Any]:
    """Return the fields of the VideoIndex in a pack; `root` is the folder of its shards.

    Raises:
        InputError: It is missing, foreign, truncated, altered or of another version.
    """
    path = path.absolute()
    header = read_header(path)
    try:
        with open(path, "rb", buffering=0) as raw:
            if _digest_tables(raw, header) != header.digest:
                raise InputError(f"the tables of the pack {path} were altered; pack again")
            raw.seek(0)
            with h5py.File(raw, "r") as file:
                tables = Tables(file, header.end - header.length)
                fields = read_fields(file, tables)
                fields["packed"] = _read_places(file, tables, path, header, root)
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(f"the pack {path} is corrupt ({error}); pack again") from error
    fields["root"] = path
    return fields


def _read_places(
    file: Any, tables: Tables, path: Path, header: Header, root: Path | None
) -> Packed:
    if header.length:
        shards = [Shard(path, header.start, header.length, header.digest)]
    else:
        names = tables.texts("pack/shards")
        if any(Path(name).name != name or name in ("", ".", "..") for name in names):
            raise InputError(f"a shard of the pack {path} leads out of its folder")
        folder = path.parent if root is None else root.absolute()
        digests = tables.texts("pack/digests")
        places = tables.array("pack/places").tolist()
        shards = [
            Shard(folder / name, start, length, digest)
            for name, (start, length), digest in zip(names, places, digests, strict=True)
        ]
    return Packed(
        shards=tuple(shards),
        shard_numbers=tables.array("pack/shard_numbers"),
        offsets=tables.array("pack/offsets"),
        source=str(file["pack"].attrs["source"]),
        settings=_checked_settings(str(file["pack"].attrs["settings"])),
    )


def _checked_settings(text: str) -> str:
    settings = json.loads(text)
    if not isinstance(settings, dict) or not isinstance(settings["transcoding"], dict | None):
        raise ValueError("its settings are wrong")
    return text


def check_shards(packed: Packed) -> None:
    """Make sure that every shard is there, whole, and the one that the pack's table describes.

    Raises:
        InputError: Names the shard and the remedy.
    """
    for shard in packed.shards:
        if not shard.file.is_file():
            raise InputError(
                f"the shard {shard.file.name} of the pack is not in {shard.file.parent}: if the "
                "shards were moved, name their folder with --root"
            )
        header = read_header(shard.file)
        stated = (shard.start, shard.length, shard.digest)
        if (header.start, header.length, header.digest) != stated:
            raise InputError(
                f"the shard {shard.file} belongs to another pack, or was made anew: bring the "
                "right one, or pack again"
            )


def _digest_tables(file: BinaryIO | Any, header: Header) -> str:
    """SHA-256 of everything in the file but the user block's checksum and the data."""
    digest = hashlib.sha256(header.places())
    for _, chunk in _tables_in(file, header):
        digest.update(chunk)
    return digest.hexdigest()


def _tables_in(file: BinaryIO | Any, header: Header) -> Iterator[tuple[int, bytes]]:
    """Yield the parts of a file before and after its data, each with its place."""
    data_end = header.start + header.length
    for place, end in ((USER_BLOCK, header.start), (data_end, header.end)):
        while place < end:
            file.seek(place)
            chunk = file.read(min(_CHUNK_BYTES, end - place))
            if not chunk:
                return
            yield place, chunk
            place += len(chunk)


# ---- writing


def data_start() -> int:
    """The first byte of `data` in a pack that is written here; the HDF5 library decides it."""
    return _write_tables(io.BytesIO(), None, 1)


def finish(spool: Path, target: Path, index: VideoIndex) -> None:
    """Make a pack out of a file that holds its data, where the index's only shard says.

    The tables are put around the data where they are; nothing is copied but the tables. HDF5
    writes them into memory, since that library crashes (segmentation fault) where a disk fills
    under it. A memfd is sparse: the hole for the data takes no memory.

    Args:
        spool: The file with the data; it is synced and renamed to `target`.
        target: The pack.
        index: Its contents.

    Raises:
        OSError: The tables cannot be written.
    """
    assert index.packed is not None
    (shard,) = index.packed.shards
    with open(os.memfd_create("tables"), "w+b") as tables, open(spool, "r+b") as file:
        start = _write_tables(tables, index, shard.length)
        assert start == shard.start
        header = _sealed(tables, start, shard.length)
        file.truncate(start + shard.length)
        for place, chunk in _tables_in(tables, header):
            file.seek(place)
            file.write(chunk)
        file.seek(0)
        file.write(header.encode())
        file.flush()
        os.fsync(file.fileno())
    os.replace(spool, target)
    files.sync_folder(target.parent)


def write_manifest(target: Path, index: VideoIndex) -> None:
    """Write a pack whose videos lie in shards.

    Raises:
        OSError: It cannot be written.
    """
    tables = io.BytesIO()
    _write_tables(tables, index, 0)
    header = _sealed(tables, USER_BLOCK, 0)
    files.replace(target, header.encode() + tables.getbuffer()[USER_BLOCK:])


def _sealed(file: BinaryIO, start: int, length: int) -> Header:
    """Return the header of a file whose tables are written."""
    unsealed = Header("", start, length, file.seek(0, io.SEEK_END))
    return replace(unsealed, digest=_digest_tables(file, unsealed))


def _write_tables(file: BinaryIO, index: VideoIndex | None, length: int) -> int:
    """Write a pack's HDF5 file without its data; returns where they belong."""
    start = USER_BLOCK
    with h5py.File(file, "w", userblock_size=USER_BLOCK) as tables:
        if length:
            start = _allocate(tables, length)
        if index is not None:
            write_fields(tables, index)
            _write_places(tables, index.packed, is_manifest=not length)
    return start


def _allocate(file: Any, length: int) -> int:
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    creation.set_obj_track_times(False)  # the same videos give the same file
    space = h5py.h5s.create_simple((length,))
    data = h5py.h5d.create(file.id, b"data", h5py.h5t.STD_U8LE, space, creation)
    return int(data.get_offset())


def _write_places(file: Any, packed: Packed | None, *, is_manifest: bool) -> None:
    assert packed is not None
    group = file.create_group("pack")
    group.attrs["source"], group.attrs["settings"] = packed.source, packed.settings
    group["shard_numbers"], group["offsets"] = packed.shard_numbers, packed.offsets
    if is_manifest:
        write_texts(group, "shards", [shard.file.name for shard in packed.shards])
        write_texts(group, "digests", [shard.digest for shard in packed.shards])
        places = [(shard.start, shard.length) for shard in packed.shards]
        group["places"] = np.array(places, np.int64).reshape(-1, 2)
