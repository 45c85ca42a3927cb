"""Six small videos, two files that are none, and their index."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastdual.loaders.index import VideoIndex, build_index
from tests.loaders.clips import encode
from tests.loaders.processes import worker_pids


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos of two classes, one of them rotated, and two files that cannot be used."""
    root = tmp_path_factory.mktemp("made")
    for number in range(3):
        encode(root / "run" / f"{number}.mp4", 5 + number, gop=4, options={"sc_threshold": "0"})
        encode(root / "walk" / f"{number}.avi", 8 + number, codec="mpeg4")
    encode(root / "run" / "1.mp4", 6, rotation=90)
    (root / "run" / "text.mp4").write_text("not a video")
    (root / "walk" / "empty.mp4").touch()
    return root


@pytest.fixture
def videos(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "videos"))


@pytest.fixture
def index(videos: Path, tmp_path: Path) -> VideoIndex:
    return build_index(videos, tmp_path / "x.h5", num_workers=2)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def no_worker_stays() -> Iterator[None]:
    yield
    assert worker_pids() == []
