"""The decoder is chosen for the device, and what it cannot decode is known with a reason."""

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fastdual.errors import InputError
from fastdual.loaders.batch.decoder import (
    choose_decoder,
    colour_matrix,
    graph_threads,
    why_not_dali,
)
from fastdual.loaders.index import VideoIndex, build_index
from tests.loaders.clips import encode


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> VideoIndex:
    folder = tmp_path_factory.mktemp("videos")
    encode(folder / "h264.mp4", 4, height=96, width=128)
    encode(folder / "vp9.mp4", 4, codec="libvpx-vp9", height=96, width=128)
    return build_index(folder, tmp_path_factory.mktemp("index") / "x.h5", num_workers=1)


@pytest.mark.parametrize(
    ("requested", "device", "decoder"),
    [
        ("auto", "cpu", "pyav"),
        ("auto", "cuda", "nvdec"),
        ("pyav", "cuda", "pyav"),
        ("dali-cpu", "cpu", "dali-cpu"),
    ],
)
def test_the_decoder_is_chosen_and_the_reason_told(requested, device, decoder):
    choice = choose_decoder(requested, device)
    assert choice.decoder == decoder and choice.reason
    assert ("as asked" in choice.reason) == (requested != "auto")


@pytest.mark.parametrize(
    ("requested", "device", "message"),
    [
        ("decord", "cpu", "decode is 'decord'; choose one of auto, nvdec, dali-cpu, pyav"),
        ("nvdec", "cpu", "needs a CUDA device"),
        ("dali-cpu", "cuda", "runs on a CPU"),
    ],
)
def test_a_decoder_that_the_device_lacks_is_refused(requested, device, message):
    with pytest.raises(InputError, match=message):
        choose_decoder(requested, device)


def test_files_that_dali_cannot_decode_are_known_with_a_reason(index: VideoIndex):
    h264, vp9 = index.paths.index("h264.mp4"), index.paths.index("vp9.mp4")
    assert why_not_dali("dali-cpu", index, h264) == "DALI decodes no h264 on a CPU"
    assert why_not_dali("dali-cpu", index, vp9) is None
    assert why_not_dali("pyav", index, vp9) == "pyav is the decoder"
    assert why_not_dali("nvdec", index, h264) is None
    assert why_not_dali("nvdec", index, vp9) == "NVDEC refuses vp9 of 128x96"
    mpeg2 = replace(index, codecs=("mpeg2video",) * len(index))
    assert why_not_dali("nvdec", mpeg2, 0) == "NVDEC decodes no mpeg2video"


def test_colour_matrices():
    assert np.array_equal(colour_matrix(2), np.eye(3))
    assert np.array_equal(colour_matrix(5), np.eye(3))
    for space in (1, 9):
        assert np.allclose(colour_matrix(space).sum(axis=1), 1)  # grey stays grey
    assert colour_matrix(1)[0, 0] > 1.05
    assert colour_matrix(8) is None  # YCgCo


def test_nvdec_gets_threads_for_all_engines() -> None:
    assert graph_threads("nvdec", 2) == 16 and graph_threads("nvdec", 64) == 32
    assert graph_threads("pyav", 2) == graph_threads("dali-cpu", 3) == 1


@pytest.mark.parametrize(("requested", "device"), [("dali-cpu", "cpu"), ("auto", "cuda")])
def test_what_needs_dali_says_so_without_it(
    requested: Any, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nvidia", None)
    monkeypatch.delitem(sys.modules, "nvidia.dali", raising=False)
    with pytest.raises(InputError, match=r'needs DALI.*pip install "\.\[gpu\]"'):
        choose_decoder(requested, device)
    assert choose_decoder("auto", "cpu").decoder == "pyav"
