"""Decoded frames as pictures: scaled, upright, in the stated colours."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastdual.loaders.decode.picture import clockwise_rotation
from fastdual.loaders.decode.video import (
    decode_all,
    open_video,
)
from fastdual.loaders.index.probe import examine_file
from tests.loaders.clips import encode, numbers, picture, read_frames
from tests.packages import av

pytestmark = pytest.mark.needs("av")


def test_scaling_keeps_the_content(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", 12, height=240, width=320)
    found = examine_file(path)
    assert numbers(path, [0, 5, 11], found, size=(128, 171)) == [0, 5, 11]
    frames = read_frames(path, np.array([5]), size=(128, 171))
    assert frames.shape == (1, 128, 171, 3)


@pytest.mark.parametrize(("counterclockwise", "clockwise"), [(90, 270), (180, 180), (-90, 90)])
def test_rotated_video_comes_out_upright(
    tmp_path: Path, counterclockwise: int, clockwise: int
) -> None:
    path = encode(tmp_path / "a.mp4", 3, rotation=counterclockwise)
    found = examine_file(path)
    assert (found.rotation, found.size) == (clockwise, (48, 64))
    upright = read_frames(path, np.array([1]), rotation=found.rotation)[0].astype(int)
    expected = np.rot90(picture(1), counterclockwise // 90).astype(int)
    assert upright.shape == expected.shape
    assert np.abs(upright - expected).mean() < 12
    scaled = read_frames(path, np.array([1]), rotation=found.rotation, size=expected.shape[:2])
    assert np.abs(scaled[0].astype(int) - expected).mean() < 12


def test_clockwise_rotation_is_the_display_matrix_negated(tmp_path: Path) -> None:
    with open_video(encode(tmp_path / "a.mp4", 1, rotation=90)) as video:
        frame = next(decode_all(video))
    assert frame.rotation == 90 and clockwise_rotation(frame) == 270


@pytest.mark.parametrize("matrix", [1, 6])
@pytest.mark.parametrize("full", [False, True])
def test_colours_follow_the_stated_matrix_and_range(
    tmp_path: Path, matrix: int, full: bool
) -> None:
    rgb = np.array([180, 60, 90])
    red, blue = (0.2126, 0.0722) if matrix == 1 else (0.299, 0.114)
    luma = np.array([red, 1 - red - blue, blue]) @ rgb
    chroma = (rgb[2] - luma) / (2 - 2 * blue), (rgb[0] - luma) / (2 - 2 * red)
    scale = (1.0, 0.0, 1.0) if full else (219 / 255, 16.0, 224 / 255)
    planes = [luma * scale[0] + scale[1], *(value * scale[2] + 128 for value in chroma)]
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv444p"
        stream.codec_context.colorspace = matrix
        stream.codec_context.color_range = 2 if full else 1
        frame = av.VideoFrame(64, 48, "yuv444p")
        frame.colorspace, frame.color_range = matrix, 2 if full else 1
        for plane, value in zip(frame.planes, planes, strict=True):
            plane.update(bytes([round(value)]) * plane.buffer_size)
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    pixel = read_frames(path, np.array([0]))[0, 20, 20].astype(int)
    assert np.abs(pixel - rgb).max() <= 3
