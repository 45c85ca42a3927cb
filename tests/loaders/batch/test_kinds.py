"""What the index says decides which files DALI is given."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastdual.loaders.batch.kinds import Kind, kinds_of, why_not_files, why_not_kind
from fastdual.loaders.index import VideoIndex, build_index
from tests.loaders.clips import encode, remux

COLOUR = "DALI converts by BT.601, it states another colour matrix"


def made(folder: Path) -> VideoIndex:
    return build_index(folder, folder.with_suffix(".h5"), num_workers=1)


def reasons(index: VideoIndex, decoder: str = "nvdec", **changes: Any) -> list[str | None]:
    return why_not_files(decoder, replace(index, **changes))


@pytest.mark.parametrize(
    ("decoder", "kind", "reason"),
    [
        ("dali-cpu", Kind("h264", "High", "yuv420p", 96, 128), "DALI decodes no h264 on a CPU"),
        ("dali-cpu", Kind("vp9", "Profile 0", "yuv420p", 96, 128), None),
        ("nvdec", Kind("h264", "High", "yuv420p", 96, 128), None),
        ("nvdec", Kind("vp9", "Profile 0", "yuv420p", 96, 128), "NVDEC refuses vp9 of 128x96"),
        ("nvdec", Kind("mpeg2video", "Main", "yuv420p", 96, 128), "NVDEC decodes no mpeg2video"),
    ],
)
def test_codecs_and_sizes(decoder: str, kind: Kind, reason: str | None) -> None:
    assert why_not_kind(decoder, kind) == reason


def test_videos_of_one_kind_share_it(index: VideoIndex) -> None:
    kinds = kinds_of(index)
    assert {str(kind) for kind in kinds} == {
        "h264 High yuv420p 64x48",
        "vp9 Profile 0 yuv420p 64x48",
    }
    assert len({id(kind) for kind in kinds}) == 2
    assert Kind("h264", "", "yuv420p", 540, 960).coded_size == (960, 544)


@pytest.mark.parametrize("space", ["bt709", "bt2020nc"])
def test_other_colour_matrices(tmp_path: Path, space: str) -> None:
    folder = tmp_path / "videos"
    encode(folder / "hd.mp4", 5, options={"colorspace": space})
    encode(folder / "plain.mp4", 5)
    encode(folder / "sd.mp4", 5, options={"colorspace": "smpte170m"})
    assert reasons(made(folder)) == reasons(made(folder), "dali-cpu") == [COLOUR, None, None]


def test_times_that_dali_leaves_out_or_cuts_off(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    source = encode(tmp_path / "source.mp4", 10)
    remux(source, folder / "early.mkv", delay=-2)
    remux(source, folder / "good.mkv", delay=0)
    remux(source, folder / "late.ts", delay=10 * 86_400)
    early, good, late = reasons(made(folder))
    assert early == "DALI leaves out frames whose time is missing or negative" and good is None
    assert late == "DALI keeps 32 bits of its times, which have more"
    assert reasons(made(folder), "dali-cpu")[2] is None  # libav keeps them all


def test_packets_that_are_not_one_frame_each(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    encode(folder / "a.mp4", 10)
    index = made(folder)
    assert reasons(index, num_packets=index.num_packets + 1) == [
        "its packets do not hold one frame each"
    ]
    packed = {"num_packets": index.num_packets + 1, "codecs": ("mpeg4",)}
    assert reasons(index, **packed) == [None]  # DALI takes packed B-frames apart


def test_open_groups_and_frames_shown_twice(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    options = {"x265-params": "open-gop=1:keyint=8:min-keyint=8:bframes=3:log-level=none"}
    encode(folder / "open.mp4", 30, codec="libx265", gop=8, options=options)
    encode(folder / "twice.mp4", 40, codec="libsvtav1", height=128, width=128)
    index = made(folder)
    opened, twice = reasons(index)
    assert opened == "DALI miscounts HEVC of open groups"
    assert twice == "DALI miscounts frames that are shown twice (show_existing_frame)"
    assert (
        reasons(index, codecs=("h264", "av1"))[0] is None
    )  # DALI enters H.264 at IDR frames alone


def test_an_index_that_does_not_say_is_not_trusted(index: VideoIndex) -> None:
    found = reasons(index, pixel_formats=("",) * len(index))
    assert all(reason is not None and "index or pack it again" in reason for reason in found)
    assert set(reasons(index, "dali-cpu")) == {None}
    assert np.array_equal(index.num_packets, index.num_frames)
