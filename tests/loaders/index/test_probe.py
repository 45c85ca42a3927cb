"""Probing and decoding: counts are exact, frame i is frame i, damage is refused."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from fastdual.errors import FailureError
from fastdual.loaders.decode.keyframes import Keyframes
from fastdual.loaders.decode.picture import clockwise_rotation
from fastdual.loaders.decode.video import (
    OpenVideo,
    VideoError,
    decode_all,
    decode_from,
    demux,
    open_video,
)
from fastdual.loaders.index import probe as probe_module
from fastdual.loaders.index.probe import examine_file
from fastdual.loaders.index.video import Video
from tests.loaders.clips import encode, encode_sound, picture, read_frames, read_number

FORMATS: dict[str, dict[str, Any]] = {
    "h264.mp4": {},
    "h264-b-frames.mp4": {"b_frames": 3, "gop": 8},
    "h264-open-gop.mkv": {"b_frames": 2, "gop": 8, "options": {"x264-params": "open-gop=1"}},
    "h264-10-bit.mp4": {"pixels": "yuv420p10le", "gop": 6},
    "h264-444.mp4": {"pixels": "yuv444p"},
    "h264.ts": {"gop": 6, "b_frames": 2},
    "h265.mp4": {"codec": "libx265", "gop": 6, "options": {"x265-params": "log-level=none"}},
    "mpeg4.avi": {"codec": "mpeg4", "gop": 5, "options": {"qscale": "2"}},
    "mpeg4-b-frames.avi": {"codec": "mpeg4", "b_frames": 2, "gop": 6, "options": {"qscale": "2"}},
    "mpeg2.mpg": {"codec": "mpeg2video", "b_frames": 2, "gop": 6, "fps": 25},
    "vp8.webm": {"codec": "libvpx", "gop": 7},
    "vp9.webm": {"codec": "libvpx-vp9", "gop": 7},
    "mjpeg.avi": {"codec": "mjpeg", "pixels": "yuvj420p", "options": {"qscale": "2"}},
    "grey.mkv": {"codec": "ffv1", "pixels": "gray"},
    "variable-rate.mp4": {"times": [n * n for n in range(20)], "gop": 5},
    "late-start.mp4": {"times": [500 + n for n in range(20)], "gop": 5},
}


@pytest.fixture(params=sorted(FORMATS))
def clip(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    try:
        return encode(tmp_path / request.param, 20, **FORMATS[request.param])
    except (av.error.FFmpegError, ValueError) as error:
        pytest.skip(f"this PyAV cannot encode {request.param}: {error}")


def numbers(source: Any, frames: list[int], found: Video, **options: Any) -> list[int]:
    pictures = read_frames(source, np.array(frames, np.int64), keyframes=found.keyframes, **options)
    return [read_number(one) for one in pictures]


def test_every_frame_is_counted_and_numbered(clip: Path) -> None:
    found = examine_file(clip)
    assert found.num_frames == 20
    assert found.size == (48, 64)
    assert numbers(clip, list(range(20)), found) == list(range(20))


def test_seeking_gives_the_same_pictures_as_decoding_from_the_start(clip: Path) -> None:
    found = examine_file(clip)
    whole = read_frames(clip, np.arange(20))
    rng = np.random.default_rng(0)
    for _ in range(8):
        wanted = np.sort(rng.choice(20, rng.integers(1, 5), replace=False)).astype(np.int64)
        part = read_frames(clip, wanted, keyframes=found.keyframes)
        assert np.array_equal(part, whole[wanted])


def test_bytes_read_like_the_file(clip: Path) -> None:
    found = examine_file(clip)
    assert numbers(clip.read_bytes(), [3, 9, 17], found) == [3, 9, 17]


def test_short_groups_are_used_for_seeking(tmp_path: Path) -> None:
    found = examine_file(encode(tmp_path / "a.mp4", 40, gop=8, options={"sc_threshold": "0"}))
    assert found.keyframes.frames.tolist() == [8, 16, 24, 32]


@pytest.mark.parametrize("name", ["h264-open-gop.mkv", "mpeg4-b-frames.avi"])
def test_leading_pictures_of_an_open_group_do_not_stop_seeking(tmp_path: Path, name: str) -> None:
    found = examine_file(encode(tmp_path / name, 20, **FORMATS[name]))
    assert found.keyframes.frames.tolist() == list(range(0, 20, FORMATS[name]["gop"]))[1:]


def test_a_seek_that_gives_other_pictures_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = encode(tmp_path / "a.mp4", 40, gop=8, options={"sc_threshold": "0"})
    table = examine_file(path).keyframes
    assert table.frames.tolist() == [8, 16, 24, 32]

    def one_frame_late(video: OpenVideo, pts: int, offset: int) -> Iterator[Any]:
        frames = decode_from(video, pts, offset)
        return itertools.islice(frames, int(pts == table.pts[1]), None)

    monkeypatch.setattr(probe_module, "decode_from", one_frame_late)
    assert len(examine_file(path).keyframes.frames) == 0


def test_a_wrong_seek_table_still_gives_the_right_frames(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", 40, gop=8, options={"sc_threshold": "0"})
    table = examine_file(path).keyframes
    wrong = Keyframes(table.frames, table.pts, table.offsets + 1)
    frames = read_frames(path, np.array([2, 30]), keyframes=wrong)
    assert [read_number(frame) for frame in frames] == [2, 30]


def test_intra_refresh_is_never_seeked_into(tmp_path: Path) -> None:
    # Recovery points are flagged as keyframes, but a decoder that starts there shows wrong parts.
    options = {"x264-params": "intra-refresh=1:keyint=8"}
    found = examine_file(encode(tmp_path / "a.mkv", 40, gop=8, options=options))
    whole = read_frames(tmp_path / "a.mkv", np.arange(40))
    part = read_frames(tmp_path / "a.mkv", np.array([33]), keyframes=found.keyframes)
    assert np.array_equal(part, whole[[33]])


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


def test_one_frame_is_a_video(tmp_path: Path) -> None:
    found = examine_file(encode(tmp_path / "a.mp4", 1))
    assert (found.num_frames, len(found.keyframes.frames)) == (1, 0)


def test_rate_and_duration(tmp_path: Path) -> None:
    found = examine_file(encode(tmp_path / "a.mp4", 30, fps=15))
    assert found.fps == (15, 1)
    assert found.duration_seconds == pytest.approx(2.0)
    assert found.codec == "h264"


def test_names_that_look_like_something_else(tmp_path: Path) -> None:
    for name in ("http:a.mp4", "frame%03d.mp4", "a b'\"[1]?#.mp4", "-o.mp4", "ünïcode：.mp4"):
        assert examine_file(encode(tmp_path / "x.mp4", 2).rename(tmp_path / name)).num_frames == 2
    odd = tmp_path / b"\xff\xfe.mp4".decode(errors="surrogateescape")
    assert examine_file((tmp_path / "-o.mp4").rename(odd)).num_frames == 2


def damaged(path: Path, kind: str) -> Path:
    good = encode(path.with_name("good.mp4"), 20, gop=5, height=240, width=320)
    body = bytearray(good.read_bytes())
    if kind == "missing":
        return path
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("just a text file\n" * 100)
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "sound":
        encode_sound(path)
    elif kind == "cut short":
        options = {"movflags": "faststart"}
        fast = encode(path, 20, gop=5, height=240, width=320, container_options=options)
        fast.write_bytes(fast.read_bytes()[:-800])
    elif kind == "no table":
        path.write_bytes(body[: len(body) // 3])
    elif kind == "zeros inside":
        start, end = body.index(b"mdat"), body.index(b"moov")
        middle = slice((start + end) // 2, (start + end) // 2 + 400)
        body[middle] = bytes(400)
        path.write_bytes(body)
    elif kind == "picture damaged":
        old = encode(path.with_name("good.avi"), 20, codec="mpeg4", height=240, width=320)
        body = bytearray(old.read_bytes())
        body[len(body) // 2 : len(body) // 2 + 40] = bytes(40)
        path.write_bytes(body)
    elif kind == "last packets gone":
        options = {"movflags": "faststart"}
        fast = encode(path, 20, gop=5, container_options=options)
        with open_video(fast) as video:
            places = sorted(packet.pos + packet.size for packet in demux(video) if packet.size)
        fast.write_bytes(fast.read_bytes()[: places[11]])
    elif kind == "encrypted":
        key = {"encryption_key": "0123456789abcdef" * 2, "encryption_kid": "0" * 31 + "1"}
        encode(path, 20, container_options={"encryption_scheme": "cenc-aes-ctr", **key})
    elif kind == "playlist":
        path.write_text("#EXTM3U\n#EXTINF:1,\ngood.mp4\n#EXT-X-ENDLIST\n")
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "the file is missing"),
        ("empty", "the file is empty"),
        ("text", "is not a video, or its header is damaged"),
        ("folder", "is not a regular file"),
        ("pipe", "is not a regular file"),
        ("sound", r"has no video stream \(only audio\)"),
        ("cut short", "is truncated or damaged: packet 1[0-9] is incomplete"),
        ("no table", "is not a video, or its header is damaged"),
        ("zeros inside", r"frame \d+ (cannot be decoded|is damaged)"),
        ("picture damaged", r"frame \d+ is damaged"),
        ("last packets gone", "is truncated: 12 of 20 frames are there"),
        ("encrypted", "is encrypted"),
        ("playlist", "is not a video|is a playlist"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_plain_reason(
    tmp_path: Path, kind: str, reason: str
) -> None:
    with pytest.raises(VideoError, match=f"^({reason})") as caught:
        examine_file(damaged(tmp_path / "bad.mp4", kind))
    assert isinstance(caught.value, FailureError)
    assert "\n" not in str(caught.value)


def test_a_frame_size_that_changes_is_refused(tmp_path: Path) -> None:
    first = encode(tmp_path / "a.h264", 5)
    second = encode(tmp_path / "b.h264", 5, height=96, width=128)
    both = tmp_path / "c.h264"
    both.write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(VideoError, match="changes its frame size from 64x48 to 128x96 at frame 5"):
        examine_file(both)


def test_reading_past_the_end_says_that_the_file_changed(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", 5)
    with pytest.raises(VideoError, match="has 5 frames, frame 7 is wanted"):
        read_frames(path, np.array([1, 7]))


@pytest.mark.parametrize("frames", [[], [-1], [2, 2], [3, 1]])
def test_frames_must_be_sorted_and_unique(tmp_path: Path, frames: list[int]) -> None:
    with pytest.raises(ValueError, match="strictly increasing"):
        read_frames(encode(tmp_path / "a.mp4", 5), np.array(frames, np.int64))
