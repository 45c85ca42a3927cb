"""A folder of packs as gpu_bundle writes them, of two tiny videos."""

from pathlib import Path

import pytest

from fastdual.loaders.index import build_index
from fastdual.loaders.pack import PackOptions, Transcoding, pack
from tests.loaders.clips import encode


@pytest.fixture(scope="session")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packs")
    for name in "ab":
        encode(folder / "videos" / f"{name}.mp4", 70, height=128, width=176)
    index = build_index(folder / "videos", folder / "videos.h5", num_workers=1)
    for codec in ("mjpeg", "h264"):
        options = PackOptions(transcoding=Transcoding(codec=codec), num_workers=1)
        pack(index, folder / f"{codec}_128x176.h5", options)
    return folder
