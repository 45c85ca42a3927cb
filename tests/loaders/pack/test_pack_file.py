"""The file of a pack: read by other tools, damaged, cut off, its shards moved."""

import dataclasses
import json
import os
import resource
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from fastdual.errors import FailureError, InputError
from fastdual.loaders.decode.encoded import PackedBytes
from fastdual.loaders.index import VideoIndex, load_index, open_index, pack_file, save_index
from fastdual.loaders.index.places import Packed, Shard
from fastdual.loaders.pack import pack
from tests.loaders.damage import flip
from tests.loaders.pack.packing import AS_IS, PLAIN, SMALL, numbers_in


def test_any_hdf5_reader_finds_the_bytes(index: VideoIndex, tmp_path: Path) -> None:
    pack(index, tmp_path / "p.h5", AS_IS)
    with h5py.File(tmp_path / "p.h5") as file:
        assert file["data"].chunks is None and file["data"].id.get_offset() is not None
        begin = file["pack/offsets"][3]
        contents = file["data"][begin : begin + file["file_bytes"][3]].tobytes()
    assert contents == index.path(3).read_bytes()


@pytest.mark.parametrize("place", ["magic", "digest", "places", "padding", "tables", "end"])
def test_damaged_tables_are_refused(small: VideoIndex, tmp_path: Path, place: str) -> None:
    file = Path(shutil.copy(small.root, tmp_path / "p.h5"))
    assert small.packed is not None
    (shard,) = small.packed.shards
    at = {"magic": 9, "digest": 40, "places": 95, "padding": 300, "tables": shard.start - 1}
    flip(file, at.get(place, file.stat().st_size - 1))
    with pytest.raises(InputError, match=r"p\.h5"):
        open_index(file)


def test_what_is_no_pack_of_this_version_is_refused(small: VideoIndex, tmp_path: Path) -> None:
    contents = small.root.read_bytes()
    file = tmp_path / "p.h5"
    file.write_bytes(contents.replace(b"fastdual-pack 3", b"fastdual-pack 4", 1))
    with pytest.raises(InputError, match="has format 4, this fastdual reads 2 and 3: pack again"):
        open_index(file)
    file.write_bytes(contents + b"x")
    with pytest.raises(InputError, match="longer than its header says"):
        open_index(file)
    with pytest.raises(ValueError, match="saved in the pack"):
        save_index(small, tmp_path / "x.h5")


def test_shards_that_are_gone_moved_or_foreign(index: VideoIndex, tmp_path: Path) -> None:
    options = dataclasses.replace(SMALL, shard_bytes=7000)
    packed = pack(index, tmp_path / "p.h5", options)
    disk = tmp_path / "disk"
    disk.mkdir()
    for number in range(3):
        (tmp_path / f"p-0000{number}.h5").rename(disk / f"p-0000{number}.h5")
    with pytest.raises(InputError, match=r"p-00000\.h5 of the pack is not in .*--root"):
        open_index(tmp_path / "p.h5")
    moved = open_index(tmp_path / "p.h5", root=disk)
    assert moved.fingerprint == packed.fingerprint and numbers_in(moved, 5) == list(range(11))
    shutil.copy(disk / "p-00000.h5", disk / "p-00001.h5")
    with pytest.raises(InputError, match=r"p-00001\.h5 belongs to another pack"):
        open_index(tmp_path / "p.h5", root=disk)
    (tmp_path / "p.h5").unlink()
    shutil.copy(disk / "p-00000.h5", tmp_path)
    with pytest.raises(InputError, match=r"p-00000\.h5 exists: delete it"):
        pack(index, tmp_path / "p.h5", options)


def test_a_pack_cut_off_while_it_is_read_names_the_video(
    made_index: VideoIndex, tmp_path: Path
) -> None:
    packed = pack(made_index, tmp_path / "p.h5", AS_IS)
    source = packed.source(5)
    assert isinstance(source, PackedBytes)
    os.truncate(source.file, source.offset + 10)
    with pytest.raises(FailureError, match="is truncated: this video is not all there"):
        source.read()
    with pytest.raises(InputError, match=r"p\.h5 is truncated: .* bytes are there"):
        open_index(tmp_path / "p.h5")
    source.file.unlink()
    with pytest.raises(FailureError, match="cannot be read: No such file"):
        source.read()


@pytest.mark.parametrize("name", ["packed.h5", "small-00000.h5"])
def test_an_old_pack_would_be_written_the_same_today(
    golden: Path, tmp_path: Path, name: str
) -> None:
    old = golden / "written_by_90bf688" / name
    spool = Path(shutil.copy(old, tmp_path / "spool"))
    pack_file.finish(spool, tmp_path / "p.h5", load_index(old))
    assert (tmp_path / "p.h5").read_bytes() == old.read_bytes()


def test_a_terabyte_of_data_costs_no_memory_to_finish(
    made_index: VideoIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    length = 1 << 40
    start = pack_file.data_start()
    shard = Shard(tmp_path / "p.h5", start, length, "")
    numbers, offsets = np.zeros(6, np.int32), np.full(6, length - 100_000)
    places = Packed((shard,), numbers, offsets, "source", '{"transcoding": null}')
    (tmp_path / "spool").touch()
    create, kept = os.memfd_create, []

    def create_and_keep(name: str) -> int:
        memory = create(name)
        kept.append(os.dup(memory))
        return memory

    monkeypatch.setattr(os, "memfd_create", create_and_keep)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    packed = dataclasses.replace(made_index, packed=places)
    pack_file.finish(tmp_path / "spool", shard.file, packed)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB
    for status in (os.fstat(kept[0]), shard.file.stat()):
        assert status.st_size > length and status.st_blocks * 512 < 1 << 20
    os.close(kept[0])
    assert load_index(shard.file).fingerprint == made_index.fingerprint


def test_a_pack_by_phase_has_a_version_of_its_own(small: VideoIndex, index: VideoIndex) -> None:
    """A fastdual that does not know the order would show places as frames."""
    plain = pack(index, index.root.parent / "plain.h5", PLAIN)
    assert small.root.read_bytes().startswith(b"fastdual-pack 3\n")
    assert plain.root.read_bytes().startswith(b"fastdual-pack 2\n")


@pytest.mark.parametrize("stride", [0, -4, 10**9, 4.5])
def test_a_stride_that_cannot_be_is_refused(
    small: VideoIndex, tmp_path: Path, stride: object
) -> None:
    assert small.packed is not None
    settings = json.dumps({"transcoding": None, "frame_stride": stride})
    altered = dataclasses.replace(small.packed, settings=settings)
    pack_file.write_manifest(tmp_path / "m.h5", dataclasses.replace(small, packed=altered))
    with pytest.raises(InputError, match="its settings are wrong"):
        load_index(tmp_path / "m.h5")
