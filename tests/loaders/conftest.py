"""A short clip in each of many formats, and the index of a set of videos."""

from pathlib import Path

import pytest

from fastdual.loaders import loader
from fastdual.loaders.batch.decoder import DecodeChoice
from fastdual.loaders.index import VideoIndex, build_index, load_index, save_index
from tests.loaders.clips import FORMATS, encode
from tests.loaders.loading import write_videos
from tests.packages import av


@pytest.fixture(params=sorted(FORMATS))
def clip(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    try:
        return encode(tmp_path / request.param, 20, **FORMATS[request.param])
    except (av.error.FFmpegError, ValueError) as error:
        pytest.skip(f"this PyAV cannot encode {request.param}: {error}")


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory) -> VideoIndex:
    folder = tmp_path_factory.mktemp("videos")
    write_videos(folder)
    return build_index(folder, tmp_path_factory.mktemp("index") / "x.h5", num_workers=1)


@pytest.fixture
def own_index(index: VideoIndex, tmp_path: Path) -> VideoIndex:
    """The same index over a copy of the files, for tests that damage them."""
    for path in index.paths:
        target = tmp_path / "videos" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((index.root / path).read_bytes())
    saved = tmp_path / "x.h5"
    save_index(index, saved)
    return load_index(saved, root=tmp_path / "videos")


@pytest.fixture
def dali_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """DALI on the CPU as `auto` would use it: PyAV decodes what it cannot."""
    choice = DecodeChoice("dali-cpu", "for a test")
    monkeypatch.setattr(loader, "choose_decoder", lambda *_: choice)
