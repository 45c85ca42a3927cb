"""A short clip in each of many formats."""

from pathlib import Path

import av
import pytest

from tests.loaders.clips import FORMATS, encode


@pytest.fixture(params=sorted(FORMATS))
def clip(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    try:
        return encode(tmp_path / request.param, 20, **FORMATS[request.param])
    except (av.error.FFmpegError, ValueError) as error:
        pytest.skip(f"this PyAV cannot encode {request.param}: {error}")
