"""Encoded videos: the same frames give the same bytes, and come back in order."""

from pathlib import Path

import numpy as np
import pytest

from fastdual.demo.encode import encode_video
from tests.packages import av

pytestmark = pytest.mark.needs("av")


@pytest.mark.parametrize(("suffix", "codec"), [("mp4", "libx264"), ("webm", "libvpx-vp9")])
def test_the_same_frames_give_the_same_bytes(suffix: str, codec: str, tmp_path: Path) -> None:
    levels = np.array([40, 120, 200, 80], np.uint8)
    video = np.broadcast_to(levels[:, None, None, None], (4, 64, 96, 3)).copy()
    for name in "ab":
        encode_video(tmp_path / f"{name}.{suffix}", video, codec=codec, fps=8)
    first = tmp_path / f"a.{suffix}"
    assert first.read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    with av.open(str(first)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert [frame.shape for frame in frames] == [(64, 96, 3)] * 4
    assert np.abs([frame.mean() for frame in frames] - levels.astype(float)).max() < 8
