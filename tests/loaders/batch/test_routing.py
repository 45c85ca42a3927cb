"""What is learnt of failures: a file, a kind, or the decoder is given up, and it is said."""

import logging

import numpy as np
import pytest
import torch

from fastdual.errors import FailureError
from fastdual.loaders.batch.decoder import DecodeChoice
from fastdual.loaders.batch.routing import Routing
from fastdual.loaders.index import VideoIndex


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "fastdual.loaders")


def vp9_of(index: VideoIndex) -> list[int]:
    return [video for video, codec in enumerate(index.codecs) if codec == "vp9"]


def route(index: VideoIndex, *, is_strict: bool = False) -> Routing:
    choice = DecodeChoice("dali-cpu", "for a test", is_strict)
    return Routing(index, np.array(vp9_of(index)), choice, torch.device("cpu"))


def test_pyav_as_the_decoder_is_no_substitute(index: VideoIndex) -> None:
    routing = Routing(index, np.arange(13), DecodeChoice("pyav", "x"), torch.device("cpu"))
    assert {routing.why_not(video) for video in range(13)} == {""}


def test_one_bad_file_costs_itself_alone(index: VideoIndex, caplog) -> None:
    routing, videos = route(index), vp9_of(index)
    routing.fail(videos[0], "odd")
    assert routing.why_not(videos[0]) == "odd" and routing.why_not(videos[1]) is None
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.endswith(f"{index.paths[videos[0]]} in place of dali-cpu: odd")


def test_three_of_a_kind_cost_the_kind(index: VideoIndex) -> None:
    routing, videos = route(index), vp9_of(index)
    for video in videos[:3]:
        routing.fail(video, "odd")
    assert routing.why_not(videos[3]) == "dali-cpu failed on 3 videos of it: odd"


def test_three_of_very_many_do_not(index: VideoIndex) -> None:
    routing, videos = route(index), vp9_of(index)
    routing.work(videos[3:] * 200)
    for video in videos[:3]:
        routing.fail(video, "odd")
    assert routing.why_not(videos[3]) is None


def test_two_chunks_without_a_picture_cost_the_decoder(index: VideoIndex) -> None:
    routing, videos = route(index), vp9_of(index)
    routing.work(videos * 100)
    for video in videos[:3]:
        routing.fail(video, "odd")
    routing.fail_chunk("no library")
    assert routing.why_not(videos[3]) is None
    routing.work(videos[3:4])  # it does work after all
    routing.fail(videos[4], "odd")
    routing.fail_chunk("no library")
    assert routing.why_not(videos[3]) is None
    for video in videos[4:]:
        routing.fail(video, "odd")
    routing.fail_chunk("no library")
    assert routing.why_not(videos[3]) == "dali-cpu does not work here: no library"


def test_a_decoder_without_a_substitute_ends_the_run(index: VideoIndex) -> None:
    with pytest.raises(FailureError, match=r"cannot be used: it failed on .*webm \(vp9 .*\): odd"):
        route(index, is_strict=True).fail(vp9_of(index)[0], "odd")
    routing = route(index, is_strict=True)
    with pytest.raises(FailureError, match=r"vp9 Profile 0 yuv420p 64x48: wrong; use auto or pyav"):
        routing.refuse(routing.kind(vp9_of(index)[0]), "wrong")
