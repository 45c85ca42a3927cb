"""Six videos of several formats, their index and a pack of them."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from fastdual.loaders.index import VideoIndex, build_index
from fastdual.loaders.pack import pack
from tests.loaders.clips import encode
from tests.loaders.pack.packing import SMALL


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos of two classes and several formats, and a file that cannot be used."""
    root = tmp_path_factory.mktemp("made")
    encode(root / "run" / "0.mp4", 20, b_frames=2, gop=6)
    encode(root / "run" / "1.mp4", 14, rotation=90)
    encode(root / "run" / "2.mkv", 12, times=[0, 1, 5, 6, 7, 30, 31, 32, 50, 51, 70, 71])
    encode(root / "walk" / "0.avi", 16, codec="mpeg4")
    encode(root / "walk" / "1.webm", 18, codec="libvpx-vp9")
    encode(root / "walk" / "2.mp4", 11, height=46)
    (root / "walk" / "text.mp4").write_text("not a video")
    return root


@pytest.fixture(scope="module")
def made_index(made: Path) -> VideoIndex:
    index = build_index(made, made.parent / "made.h5", num_workers=2)
    splits = {"train": np.array([0, 2, 3, 5]), "test": np.array([1, 4])}
    return dataclasses.replace(index, splits=splits)


@pytest.fixture
def index(made: Path, made_index: VideoIndex, tmp_path: Path) -> VideoIndex:
    """An index of files of the test's own."""
    return dataclasses.replace(made_index, root=shutil.copytree(made, tmp_path / "videos"))


@pytest.fixture(scope="module")
def small(made_index: VideoIndex, tmp_path_factory: pytest.TempPathFactory) -> VideoIndex:
    """A transcoded pack that no test changes."""
    return pack(made_index, tmp_path_factory.mktemp("small") / "p.h5", SMALL)
