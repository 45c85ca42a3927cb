"""A folder in parts comes back as it was, or an error names the part."""

import json
from pathlib import Path

import numpy as np
import pytest

from bench.parts.gpu_bundle.archive import read_parts, write_parts
from fastdual.errors import FailureError, InputError


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """2.5 MiB that cannot be compressed, in parts of one."""
    source = tmp_path / "source"
    (source / "data").mkdir(parents=True)
    (source / "commit").write_text("abc\n")
    (source / "data" / "x.h5").write_bytes(np.random.default_rng(0).bytes(5 << 19))
    return write_parts(source, tmp_path / "parts", part_mib=1)


def test_parts_are_small_and_come_back_whole(parts: list[Path], tmp_path: Path) -> None:
    assert len(parts) == 3 and max(part.stat().st_size for part in parts) == 1 << 20
    read_parts(tmp_path / "parts", tmp_path / "out")
    for name in ("commit", "data/x.h5"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "source" / name).read_bytes()


def test_old_parts_do_not_stay(parts: list[Path], tmp_path: Path) -> None:
    (tmp_path / "source" / "data" / "x.h5").unlink()
    assert len(write_parts(tmp_path / "source", tmp_path / "parts", part_mib=1)) == 1
    assert len(list((tmp_path / "parts").glob("bundle*"))) == 1


def test_a_part_that_is_missing_or_damaged_is_named(parts: list[Path], tmp_path: Path) -> None:
    whole = parts[1].read_bytes()
    parts[1].write_bytes(whole[:-1] + b"x")
    with pytest.raises(FailureError, match=r"bundle.tar.xz.01 is missing or damaged: carry it"):
        read_parts(tmp_path / "parts", tmp_path / "out")
    parts[1].unlink()
    with pytest.raises(FailureError, match="01 is missing"):
        read_parts(tmp_path / "parts", tmp_path / "out")
    with pytest.raises(InputError, match="has no parts.json"):
        read_parts(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_list_names_no_file_elsewhere(parts: list[Path], tmp_path: Path) -> None:
    sums = json.loads((tmp_path / "parts" / "parts.json").read_text())
    sums["../source/commit"] = sums.pop("bundle.tar.xz.00")
    (tmp_path / "parts" / "parts.json").write_text(json.dumps(sums))
    with pytest.raises(FailureError, match="missing or damaged"):
        read_parts(tmp_path / "parts", tmp_path / "out")
