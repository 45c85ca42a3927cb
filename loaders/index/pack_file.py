"""The file of a pack: an HDF5 file with an index and, contiguous in one dataset, encoded videos.

    byte 0   512           start             start + length   end
    | header | HDF5 tables | dataset "data"  | HDF5 tables    |
                           | video 0 | 1 |...|
                                     ^ start + pack/offsets[1]; it has file_bytes[1] bytes

The header is that of a `Container`, with the place of the data and a SHA-256 of the tables alone:
it is checked before the HDF5 library sees a byte, in a time that does not grow with the data. Each
video has a SHA-256 of its own, checked when it is read. A spool (`pack.spool`) collects the data at
their final place; `finish` puts the header and the tables around them.

A manifest is a pack without data: its videos lie in shards, each a pack on its own.
"""

import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from fastdual.errors import InputError
from fastdual.loaders.decode.frame_order import MAX_STRIDE
from fastdual.loaders.files import regular, replace, sync_folder
from fastdual.loaders.index.fields import read_fields, write_fields
from fastdual.loaders.index.hdf5 import UNREADABLE, USER_BLOCK, Container, Tables, write_texts
from fastdual.loaders.index.places import Packed, Shard
from fastdual.loaders.index.table import VideoIndex

_PACK = Container(b"fastdual-pack ", 2, "a pack", "fastdual pack", "pack again", "2 and 3")
# Frames ordered by phase: who knows version 2 alone would take places for frames.
_BY_PHASE = dataclasses.replace(_PACK, version=3)
_MAX_TABLE_BYTES = 1 << 36
_CHUNK_BYTES = 1 << 24

is_pack = _PACK.claims


def read_shard(path: Path) -> Shard:
    """Read the header of a pack (of a manifest: without data) and compare it with the file's size.

    Raises:
        InputError: It is missing, foreign, truncated, altered or of another version.
    """
    try:
        with open(path, "rb") as file:
            block, size = file.read(USER_BLOCK), os.fstat(file.fileno()).st_size
    except OSError as error:
        raise InputError(f"the pack {path} cannot be read: {error.strerror}") from error
    kind = _BY_PHASE if block.startswith(b"%s3\n" % _PACK.magic) else _PACK
    kind.check_version(path, block)
    shard, end = _parse(path, block, kind)
    if size < end:
        raise InputError(
            f"the pack {path} is truncated: {size:,} of {end:,} bytes are there; copy or pack it "
            "again"
        )
    if size > end:
        raise InputError(f"the pack {path} was altered: it is longer than its header says")
    return shard


def _parse(path: Path, block: bytes, kind: Container) -> tuple[Shard, int]:
    """Return what a header states: the data of the pack, and the size of the file."""
    words = block.split()
    try:
        start, length, end = int(words[5]), int(words[6]), int(words[8])
        shard = Shard(path, start, length, words[3].decode("ascii"))
        sound = USER_BLOCK <= start <= start + length <= end <= length + _MAX_TABLE_BYTES
    except (IndexError, ValueError):
        sound = False
    if not sound or _header(shard, end, kind) != block:
        raise InputError(f"the header of the pack {path} was altered; pack again")
    return shard, end


def _header(shard: Shard, end: int, kind: Container) -> bytes:
    """Return the user block of a pack of `end` bytes."""
    return (kind.header(shard.digest) + _places(shard, end)).ljust(USER_BLOCK, b"\0")


def _places(shard: Shard, end: int) -> bytes:
    return b"data %d %d\nend %d\n" % (shard.start, shard.length, end)


def read_pack(path: Path, root: Path | None) -> dict[str, Any]:
    """Return the fields of the `VideoIndex` in a pack.

    Args:
        path: The pack.
        root: The folder of its shards; None for that of the pack.

    Raises:
        InputError: It is missing, foreign, truncated, altered or of another version.
    """
    path = path.absolute()
    shard = read_shard(path)
    try:
        with open(path, "rb", buffering=0) as raw:
            end = raw.seek(0, io.SEEK_END)
            if _digest_tables(raw, shard, end) != shard.digest:
                raise InputError(f"the tables of the pack {path} were altered; pack again")
            raw.seek(0)
            with h5py.File(raw, "r") as file:
                tables = Tables(file, end - shard.length)
                fields = read_fields(file, tables)
                fields["packed"] = _read_places(file, tables, shard, root)
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(f"the pack {path} is corrupt ({error}); pack again") from error
    fields["root"] = path
    return fields


def _read_places(file: Any, tables: Tables, pack: Shard, root: Path | None) -> Packed:
    shards = [pack]
    if not pack.length:
        names = tables.texts("pack/shards")
        if any(Path(name).name != name or name in ("", ".", "..") for name in names):
            raise InputError(f"a shard of the pack {pack.file} leads out of its folder")
        folder = pack.file.parent if root is None else root.absolute()
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
    stride = settings.get("frame_stride", 1) if isinstance(settings, dict) else None
    sound = isinstance(stride, int) and 1 <= stride <= MAX_STRIDE
    if not sound or not _is_transcoding(settings["transcoding"]):
        raise ValueError("its settings are wrong")
    return text


def _is_transcoding(how: Any) -> bool:
    """Say whether a value is what `Transcoding.settings` returns, or None."""
    if not isinstance(how, dict):
        return how is None
    size = how.get("size")
    is_size = isinstance(size, list) and [type(side) for side in size] == [int, int]
    plain = (isinstance(value, str | int | None) for key, value in how.items() if key != "size")
    return (size is None or is_size) and all(plain)


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
        if read_shard(shard.file) != shard:
            raise InputError(
                f"the shard {shard.file} belongs to another pack, or was made again: bring the "
                "right one, or pack again"
            )


def _digest_tables(file: BinaryIO | Any, shard: Shard, end: int) -> str:
    """Return the SHA-256 of everything in a file but the header's checksum and the data."""
    digest = hashlib.sha256(_places(shard, end))
    for _, chunk in _tables_in(file, shard, end):
        digest.update(chunk)
    return digest.hexdigest()


def _tables_in(file: BinaryIO | Any, shard: Shard, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield the parts of a file of `end` bytes before and after its data, each with its place."""
    for place, stop in ((USER_BLOCK, shard.start), (shard.start + shard.length, end)):
        while place < stop:
            file.seek(place)
            chunk = file.read(min(_CHUNK_BYTES, stop - place))
            if not chunk:
                return
            yield place, chunk
            place += len(chunk)


# ---- writing


def data_start() -> int:
    """Return where the data of a pack begin; the HDF5 library decides it."""
    return _write_tables(io.BytesIO(), None, 1)


def finish(spool: Path, target: Path, index: VideoIndex) -> None:
    """Make a pack out of a file that holds its data: put the header and the tables around them.

    HDF5 writes the tables into memory, since that library crashes (segmentation fault) where a disk
    fills under it. A memfd is sparse: the hole for the data takes no memory.

    Args:
        spool: The file with the data at their final place; it is synced and renamed to `target`.
        target: The pack.
        index: Its contents; its only shard is `target`.

    Raises:
        OSError: The tables cannot be written.
    """
    assert index.packed is not None
    (shard,) = index.packed.shards
    with (
        open(os.memfd_create("tables"), "w+b") as tables,
        open(spool, "r+b", opener=regular) as file,
    ):
        start = _write_tables(tables, index, shard.length)
        assert start == shard.start
        end = tables.seek(0, io.SEEK_END)
        file.truncate(start + shard.length)
        file.write(_sealed(tables, shard, end, index))
        for place, chunk in _tables_in(tables, shard, end):
            file.seek(place)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    os.replace(spool, target)
    sync_folder(target.parent)


def write_manifest(target: Path, index: VideoIndex) -> None:
    """Write a pack whose videos lie in shards.

    Args:
        target: The pack; its folder is there.
        index: Its contents.

    Raises:
        OSError: It cannot be written.
    """
    tables = io.BytesIO()
    _write_tables(tables, index, 0)
    body = tables.getbuffer()[USER_BLOCK:]
    header = _sealed(tables, Shard(target, USER_BLOCK, 0, ""), USER_BLOCK + len(body), index)
    replace(target, header + body)


def _sealed(file: BinaryIO, shard: Shard, end: int, index: VideoIndex) -> bytes:
    """Return the header of a file of `end` bytes whose tables are written."""
    kind = _PACK if index.frame_stride == 1 else _BY_PHASE
    return _header(dataclasses.replace(shard, digest=_digest_tables(file, shard, end)), end, kind)


def _write_tables(file: BinaryIO, index: VideoIndex | None, length: int) -> int:
    """Write a pack's HDF5 file without its data and return where they belong."""
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
