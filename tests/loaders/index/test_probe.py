"""Examining a video: counts and keyframes are exact, damage is refused in plain words."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastdual.errors import FailureError
from fastdual.loaders.decode.video import (
    OpenVideo,
    VideoError,
    decode_from,
    demux,
    open_video,
)
from fastdual.loaders.index import probe as probe_module
from fastdual.loaders.index.probe import examine_file
from tests.loaders.clips import (
    FORMATS,
    encode,
    encode_sound,
    numbers,
    read_frames,
    remux,
)


def test_every_frame_is_counted_and_numbered(clip: Path) -> None:
    found = examine_file(clip)
    assert found.num_frames == 20
    assert found.size == (48, 64)
    assert numbers(clip, list(range(20)), found) == list(range(20))


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


def test_intra_refresh_is_never_seeked_into(tmp_path: Path) -> None:
    # Recovery points are flagged as keyframes, but a decoder that starts there shows wrong parts.
    options = {"x264-params": "intra-refresh=1:keyint=8"}
    found = examine_file(encode(tmp_path / "a.mkv", 40, gop=8, options=options))
    whole = read_frames(tmp_path / "a.mkv", np.arange(40))
    part = read_frames(tmp_path / "a.mkv", np.array([33]), keyframes=found.keyframes)
    assert np.array_equal(part, whole[[33]])


def test_one_frame_is_a_video(tmp_path: Path) -> None:
    found = examine_file(encode(tmp_path / "a.mp4", 1))
    assert (found.num_frames, len(found.keyframes.frames)) == (1, 0)


def test_what_another_decoder_must_know_is_found(tmp_path: Path) -> None:
    plain = examine_file(encode(tmp_path / "a.mp4", 20, **FORMATS["h264-b-frames.mp4"]))
    assert (plain.profile, plain.pixel_format, plain.colour_space) == ("High", "yuv420p", 2)
    assert (plain.num_packets, plain.num_untimed, plain.num_repeats, plain.open_gop) == (
        20,
        0,
        0,
        0,
    )
    assert plain.first_pts == 0 < plain.last_pts
    deep = examine_file(encode(tmp_path / "b.mp4", 20, **FORMATS["h264-10-bit.mp4"]))
    assert (deep.profile, deep.pixel_format) == ("High 10", "yuv420p10le")
    hd = encode(tmp_path / "c.mp4", 5, options={"colorspace": "bt709"})
    assert examine_file(hd).colour_space == 1
    assert examine_file(remux(hd, tmp_path / "d.mkv", delay=-2)).num_untimed == 2
    assert examine_file(remux(hd, tmp_path / "e.ts", delay=10 * 86_400)).last_pts > 2**31


@pytest.mark.parametrize(("option", "expected"), [("0", 0), ("1", 1)])
def test_an_open_group_of_hevc_is_known(tmp_path: Path, option: str, expected: int) -> None:
    options = {"x265-params": f"open-gop={option}:keyint=8:min-keyint=8:bframes=3:log-level=none"}
    found = examine_file(encode(tmp_path / "a.mp4", 30, codec="libx265", gop=8, options=options))
    assert found.open_gop == expected


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
