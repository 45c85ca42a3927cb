"""Indexes and packs made to harm, their checksums right: refused in one line, at no cost."""

import dataclasses
import hashlib
import io
import resource
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest

from fastdual.errors import InputError
from fastdual.loaders.index import (
    VideoIndex,
    build_index,
    load_index,
    open_index,
    pack_file,
    save_index,
)
from fastdual.loaders.index.places import Packed, Shard
from fastdual.loaders.index.video import COLUMNS
from fastdual.loaders.pack import PackOptions, pack
from tests.loaders.clips import encode

HUGE = 1 << 34


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> VideoIndex:
    root = tmp_path_factory.mktemp("made")
    for number in range(3):
        encode(root / f"{number}.mp4", 4)
    return build_index(root, root.parent / "crafted.h5", num_workers=1)


def craft(index: VideoIndex, path: Path, change: Callable[[Any], object]) -> Path:
    """Write an index file that was changed by someone who knows the format."""
    save_index(index, path)
    stream = io.BytesIO(path.read_bytes())
    with h5py.File(stream, "r+") as file:
        change(file)
    body = stream.getvalue()[512:]
    header = b"fastdual-index 2\nsha256 %s\n" % hashlib.sha256(body).hexdigest().encode()
    path.write_bytes(header.ljust(512, b"\0") + body)
    return path


def instead(name: str, **dataset: Any) -> Callable[[Any], object]:
    """Put another dataset in a table's place."""

    def change(file: Any) -> None:
        del file[name]
        file.create_dataset(name, **dataset)

    return change


def link_instead(name: str, link: Any) -> Callable[[Any], object]:
    def change(file: Any) -> None:
        del file[name]
        file[name] = link

    return change


def many_names_of_one_table(file: Any) -> None:
    """Each split is the same table of 1 MB: 10 GB in memory if they were all read."""
    count = 10_000
    file["big"] = np.arange(1 << 17)
    for table in ("bytes", "offsets"):
        del file[f"splits/{table}"]
    file["splits/bytes"] = np.frombuffer(b"x" * count, np.uint8)
    file["splits/offsets"] = np.arange(count + 1)
    for number in range(count):
        file[f"splits/{number}"] = file["big"]


def test_what_nobody_changed_is_read(index: VideoIndex, tmp_path: Path) -> None:
    path = craft(index, tmp_path / "x.h5", lambda file: None)
    assert load_index(path).fingerprint == index.fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (instead("num_frames", shape=(HUGE,), dtype="i8"), "claims 137,438,953,472 bytes"),
        (instead("paths/bytes", shape=(HUGE,), dtype="u1"), "claims 17,179,869,184 bytes"),
        (
            instead("num_frames", shape=(HUGE,), dtype="i8", chunks=(1 << 20,), compression="gzip"),
            "num_frames is not stored as plain numbers",
        ),
        (
            instead("paths/bytes", shape=(9,), dtype="u1", external=[("/etc/passwd", 0, 9)]),
            "paths/bytes is not stored as plain numbers",
        ),
        (
            instead("labels", shape=(3,), dtype=h5py.vlen_dtype("i4")),
            "labels is not stored as plain numbers",
        ),
        (instead("labels", data=["a", "b", "c"]), "labels is not stored as plain numbers"),
        (instead("labels", data=h5py.Empty("i4")), "labels is not stored as plain numbers"),
        (link_instead("labels", h5py.ExternalLink("/etc/passwd", "x")), "is missing or a link"),
        (link_instead("paths", h5py.ExternalLink("/etc/passwd", "x")), "is missing or a link"),
        (link_instead("labels", h5py.SoftLink("/labels")), "is missing or a link"),
        (lambda file: file.move("labels", "other"), "labels is missing or a link"),
        (lambda file: (file.pop("labels"), file.create_group("labels")), "labels is not a table"),
        (instead("paths/offsets", data=np.array([0, 9, 5, 9])), "offsets of paths are wrong"),
        (instead("paths/offsets", data=np.array([0.0, 9.0])), "offsets of paths are wrong"),
        (instead("quarantine/stamps", data=np.zeros((5, 2), "i8")), "quarantine_stamps are wrong"),
        (instead("num_frames", data=np.zeros(3, "i8")), "a video has no frames"),
        (many_names_of_one_table, "bytes, which are not there"),
    ],
)  # fmt: skip
def test_crafted_tables_are_refused(
    index: VideoIndex, tmp_path: Path, change: Callable[[Any], object], message: str
) -> None:
    path = craft(index, tmp_path / "x.h5", change)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=rf"x\.h5 .*{message}"):
        load_index(path)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100 << 10  # KiB


def test_an_index_without_videos_is_refused(index: VideoIndex) -> None:
    tables: dict[str, Any] = {c.name: getattr(index, c.name)[:0] for c in COLUMNS}
    with pytest.raises(InputError, match="it holds no video"):
        dataclasses.replace(index, **tables, keyframe_offsets=np.zeros(1, np.int64))


@pytest.mark.parametrize("name", ["../a.h5", "/etc/a.h5", "b/a.h5", "..", ""])
def test_a_manifest_cannot_lead_elsewhere(index: VideoIndex, tmp_path: Path, name: str) -> None:
    packed = pack(index, tmp_path / "p.h5", PackOptions(num_workers=1, shard_bytes=1 << 20))
    assert packed.packed is not None
    (shard,) = packed.packed.shards
    named: Any = SimpleNamespace(name=name)
    write_manifest(packed, tmp_path / "m.h5", dataclasses.replace(shard, file=named))
    with pytest.raises(InputError, match=r"a shard of the pack .*m\.h5 leads out of its folder"):
        load_index(tmp_path / "m.h5")


@pytest.mark.parametrize("change", [{"length": 1 << 50}, {"start": 0}, {"digest": "0" * 64}])
def test_a_manifest_cannot_say_more_than_its_shards(
    index: VideoIndex, tmp_path: Path, change: dict[str, Any]
) -> None:
    packed = pack(index, tmp_path / "p.h5", PackOptions(num_workers=1, shard_bytes=1 << 20))
    assert packed.packed is not None
    (shard,) = packed.packed.shards
    write_manifest(packed, tmp_path / "m.h5", dataclasses.replace(shard, **change))
    with pytest.raises(InputError, match=r"p-00000\.h5 belongs to another pack"):
        open_index(tmp_path / "m.h5")


def write_manifest(packed: VideoIndex, path: Path, shard: Shard) -> None:
    assert packed.packed is not None
    places: Packed = dataclasses.replace(packed.packed, shards=(shard,))
    pack_file.write_manifest(path, dataclasses.replace(packed, packed=places))


@pytest.mark.parametrize("settings", ["", "[]", "{}", '{"transcoding": [1]}'])
def test_settings_that_say_nothing_are_refused(
    index: VideoIndex, tmp_path: Path, settings: str
) -> None:
    packed = pack(index, tmp_path / "p.h5", PackOptions(num_workers=1, shard_bytes=1 << 20))
    assert packed.packed is not None
    places = dataclasses.replace(packed.packed, settings=settings)
    pack_file.write_manifest(tmp_path / "m.h5", dataclasses.replace(packed, packed=places))
    with pytest.raises(InputError, match=r"the pack .*m\.h5 is corrupt"):
        load_index(tmp_path / "m.h5")
