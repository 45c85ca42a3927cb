"""The self-check of the decoders notices one that shows other frames."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fastdual.demo.encode import encode_video
from fastdual.doctor import decoders
from fastdual.loaders.decode.video import demux, open_video
from fastdual.loaders.views.graph import ClipGraph


def test_decoder_that_is_one_frame_off_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode_late(path: Path, pictures: NDArray[np.uint8], **options: Any) -> None:
        encode_video(path, pictures[1:], **options)

    monkeypatch.setattr(decoders, "encode_video", encode_late)
    pyav, dali, nvdec = decoders.check_decoders(tmp_path, has_gpu=False)
    assert pyav.failed and "from what was encoded" in pyav.detail
    assert dali.status == "ok" and "VP9 decoded by dali-cpu, off by 0." in dali.detail
    assert nvdec.status == "unavailable"


def test_without_pyav_there_is_nothing_to_compare_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no decoder")

    monkeypatch.setattr(decoders, "ClipLoader", broken)
    pyav, dali, _ = decoders.check_decoders(tmp_path, has_gpu=False)
    assert (pyav.status, pyav.detail) == ("wrong", "RuntimeError: no decoder")
    assert (dali.status, dali.detail) == ("unavailable", "nothing to compare with, PyAV failed")


@pytest.mark.needs("av", "nvidia.dali")
def test_a_decoder_that_does_not_work_is_not_covered_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("Critical error in pipeline:\nlibnvcuvid.so.1 cannot be opened")

    monkeypatch.setattr(ClipGraph, "run", broken)
    pyav, dali, _ = decoders.check_decoders(tmp_path, has_gpu=False)
    assert (pyav.status, dali.status) == ("ok", "wrong")
    assert "decode dali-cpu was asked for and cannot be used" in dali.detail
    assert "libnvcuvid.so.1 cannot be opened" in dali.detail


@pytest.mark.needs("av")
def test_the_h264_has_b_frames(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    encode_video(path, decoders._draw_pictures(), codec="libx264", fps=10)
    with open_video(path) as video:
        times = [packet.pts for packet in demux(video) if packet.size]
    assert times != sorted(times) and len(times) == 16
