"""The file of an index: what goes in comes out, and what is damaged or foreign is refused."""

import dataclasses
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from fastdual.errors import FailureError, InputError
from fastdual.loaders.index import VideoIndex, load_index, save_index
from tests.loaders.damage import only_so_large


def values(index: VideoIndex) -> dict[str, Any]:
    """The fields of an index as plain values that compare."""
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(index):
        value = getattr(index, field.name)
        if isinstance(value, np.ndarray):
            value = (str(value.dtype), value.tolist())
        elif field.name == "splits":
            value = {name: part.tolist() for name, part in value.items()}
        plain[field.name] = value
    return plain


def test_saving_and_loading_changes_nothing(index: VideoIndex, tmp_path: Path) -> None:
    loaded = load_index(tmp_path / "x.h5")
    assert values(loaded) == values(index)
    assert loaded.fingerprint == index.fingerprint
    save_index(loaded, tmp_path / "y.h5")
    assert (tmp_path / "y.h5").read_bytes() == (tmp_path / "x.h5").read_bytes()
    assert not list(tmp_path.glob("*.partial")) and not list(tmp_path.glob(".x.h5*"))


def test_any_hdf5_tool_can_read_the_file(index: VideoIndex, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5") as file:
        assert file["num_frames"][()].tolist() == index.num_frames.tolist()


def test_every_truncation_and_altered_byte_is_noticed(index: VideoIndex, tmp_path: Path) -> None:
    body = (tmp_path / "x.h5").read_bytes()
    bad = tmp_path / "bad.h5"
    rng = np.random.default_rng(0)
    for size in [0, 1, 20, 511, 512, 513, *rng.integers(600, len(body), 40).tolist()]:
        bad.write_bytes(body[:size])
        with pytest.raises(InputError, match="bad.h5"):
            load_index(bad)
    header = 89  # what follows up to byte 512 is padding
    used = [*range(header), *rng.integers(512, len(body), 200).tolist()]
    for place in used:
        altered = bytearray(body)
        altered[place] ^= 1 << rng.integers(0, 8)
        bad.write_bytes(altered)
        with pytest.raises(InputError, match="bad.h5"):
            load_index(bad)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_text("text")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["num_frames"] = [1, 2]
    for name in ("a.h5", "b.h5"):
        with pytest.raises(InputError, match=f"{name} is not an index of fastdual; make one with"):
            load_index(tmp_path / name)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        load_index(tmp_path / "absent.h5")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        load_index(tmp_path)


def test_another_format_version_is_named(index: VideoIndex, tmp_path: Path) -> None:
    body = (tmp_path / "x.h5").read_bytes()
    (tmp_path / "x.h5").write_bytes(body.replace(b"fastdual-index 2", b"fastdual-index 9", 1))
    with pytest.raises(InputError, match="has format 9, this fastdual reads 2: build it again"):
        load_index(tmp_path / "x.h5")


def test_a_full_disk_leaves_the_old_index_and_nothing_else(
    index: VideoIndex, tmp_path: Path
) -> None:
    before = (tmp_path / "x.h5").read_bytes()
    full = r"x\.h5: the index could not be written: File too large"
    with only_so_large(1000), pytest.raises(FailureError, match=full):
        save_index(index, tmp_path / "x.h5")
    assert (tmp_path / "x.h5").read_bytes() == before
    assert not list(tmp_path.glob(".x.h5*"))
