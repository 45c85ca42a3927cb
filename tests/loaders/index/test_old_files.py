"""An index and a pack of the first release of their format are read, and written the same."""

import gzip
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from fastdual.loaders.index import VideoIndex, load_index, open_index, pack_file, save_index
from tests.loaders.clips import read_frames, read_number

FILES = Path(__file__).parents[2] / "golden" / "files"
FINGERPRINT = "11ccee35b4f797822002e541e044c26dfbb41fe2f77369a17170e6ea035250bf"


def unpacked(name: str, folder: Path) -> Path:
    path = folder / name
    path.write_bytes(gzip.decompress((FILES / f"{name}.gz").read_bytes()))
    return path


def check_videos(index: VideoIndex) -> None:
    assert index.paths == ("run/a.mp4", "walk/b.mp4") and index.num_frames.tolist() == [9, 5]
    assert index.class_names == ("run", "walk") and index.groups == ("g1", "g2")
    assert index.split("a/train").tolist() == [0] and index.split("a/test").tolist() == [1]
    assert index.quarantine[0][0] == "walk/bad.mp4"


def test_an_index_is_read_and_written_the_same(tmp_path: Path) -> None:
    index = load_index(unpacked("index.h5", tmp_path))
    check_videos(index)
    assert index.fingerprint == FINGERPRINT and index.root == Path("/videos")
    assert index.size.tolist() == [[48, 64]] * 2 and index.rotation.tolist() == [0, 270]
    table = index.keyframes(0)
    assert table is not None and table.frames.tolist() == [4, 8]
    made = replace(index, root=tmp_path / "videos")
    save_index(made, tmp_path / "again.h5")
    again = load_index(tmp_path / "again.h5")
    assert again.fingerprint == FINGERPRINT and again.root == tmp_path / "videos"


def test_a_pack_is_read_and_written_the_same(tmp_path: Path) -> None:
    index = open_index(unpacked("pack.h5", tmp_path))
    check_videos(index)
    assert index.packed is not None and index.packed.source == FINGERPRINT
    for video, count in enumerate(index.num_frames.tolist()):
        frames = read_frames(
            index.source(video), np.arange(count), keyframes=index.keyframes(video)
        )
        upright = frames if video == 0 else np.rot90(frames, -1, axes=(1, 2))
        assert [read_number(frame) for frame in upright] == list(range(count))
    spool = Path(shutil.copy(tmp_path / "pack.h5", tmp_path / "spool"))
    pack_file.finish(spool, tmp_path / "again.h5", index)
    assert (tmp_path / "again.h5").read_bytes() == (tmp_path / "pack.h5").read_bytes()
