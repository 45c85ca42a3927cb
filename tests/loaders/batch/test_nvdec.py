"""The driver is asked what it decodes, with a stand-in for its library."""

import contextlib
import ctypes
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fastdual.loaders.batch import nvdec
from fastdual.loaders.batch.kinds import Kind
from fastdual.loaders.batch.nvdec import Nvdec, why_no_nvdec

H264 = Kind("h264", "High", "yuv420p", 256, 340)


class Driver:
    """Answers as a GPU that decodes 4:2:0 of 8 bits, from 48 x 16 pixels to 36,864 blocks."""

    def __init__(self, status: int = 0) -> None:
        self.asked: list[tuple[int, int, int]] = []
        self._status = status

    def cuvidGetDecoderCaps(self, pointer: Any) -> int:  # noqa: N802, the library's name
        can = pointer._obj
        self.asked.append((can.codec, can.chroma, can.depth_minus_8))
        can.is_supported = can.chroma == 1 and can.depth_minus_8 == 0
        can.num_engines = 7
        can.min_width, can.min_height, can.max_width, can.max_height = 48, 16, 4096, 4096
        can.max_macroblocks = 36_864
        return self._status


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    return install(monkeypatch, Driver())


def install(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> Driver:
    stream = SimpleNamespace(synchronize=lambda: None)
    monkeypatch.setattr(nvdec, "load_library", lambda: driver)
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    return driver


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (H264, None),
        (H264._replace(pixel_format="yuvj420p"), None),
        (H264._replace(pixel_format="yuv420p10le"), "decodes no h264 of yuv420p10le"),
        (H264._replace(pixel_format="yuv444p"), "decodes no h264 of yuv444p"),
        (H264._replace(pixel_format="gbrp"), "decodes no h264 of gbrp"),
        (H264._replace(codec="flv1"), "decodes no flv1 of yuv420p"),
        (H264._replace(width=32, height=32), "refuses h264 of 32x32"),
        (H264._replace(width=5000), "refuses h264 of 5000x256"),
        (H264._replace(height=2304, width=4096), None),
        (H264._replace(height=2305, width=4096), "refuses h264 of 4096x2305"),
    ],
)
def test_each_kind_is_answered_with_a_reason(
    driver: Driver, kind: Kind, reason: str | None
) -> None:
    answer = Nvdec(torch.device("cuda", 0)).why_not(kind)
    assert answer is None if reason is None else reason in str(answer)


def test_a_question_is_put_once(driver: Driver) -> None:
    gpu = Nvdec(torch.device("cuda", 0))
    assert gpu.num_engines() == 7
    gpu.why_not(H264)
    gpu.why_not(H264._replace(codec="hevc", pixel_format="yuv420p10le"))
    gpu.why_not(H264._replace(width=640))
    assert driver.asked == [(4, 1, 0), (8, 1, 2)]


def test_a_driver_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Driver(status=201))
    assert Nvdec(torch.device("cuda", 0)).why_not(H264) == "NVDEC does not answer (CUDA error 201)"


def test_the_question_has_the_size_of_the_sdks_struct() -> None:
    assert ctypes.sizeof(nvdec._Capabilities) == 88
    assert nvdec._Capabilities.max_width.offset == 28


def test_without_the_library_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvdec, "_LIBRARY", "libnvcuvid.so.none")
    why = why_no_nvdec()
    assert why is not None and "NVIDIA_DRIVER_CAPABILITIES=compute,utility,video" in why


@pytest.mark.gpu
def test_this_gpu_decodes_h264() -> None:
    gpu = Nvdec(torch.device("cuda", 0))
    assert gpu.num_engines() > 0 and gpu.why_not(H264) is None
