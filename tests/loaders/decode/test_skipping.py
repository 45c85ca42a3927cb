"""Skipping unwanted frames changes which frames are decoded, and not one pixel of the wanted."""

from pathlib import Path

import numpy as np
import pytest

from fastdual.loaders.batch.reader import ReadTask
from fastdual.loaders.batch.worker import run_task
from fastdual.loaders.decode import skipping
from fastdual.loaders.decode.video import (
    SeekError,
    VideoError,
    decode_all,
    decode_packet,
    open_video,
)
from fastdual.loaders.index import build_index
from fastdual.loaders.index.probe import examine_file
from tests.loaders.clips import encode, read_frames, read_number

WANTED = np.array([3, 4, 11, 26, 27, 55, 58])


def pick(path: Path, wanted: np.ndarray, num_frames: int, **options) -> list[int]:  # type: ignore[type-arg,no-untyped-def]
    with open_video(path) as video:
        frames = skipping.pick_skipping(video, wanted, options.get("keyframes"), num_frames)
        return [read_number(frame.to_ndarray(format="rgb24")) for frame in frames]


@pytest.mark.parametrize("options", [{}, {"x264-params": "open-gop=1:b-pyramid=2"}])
@pytest.mark.parametrize("gop", [8, 25, 250])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_wanted_frames_are_those_of_a_full_decode(
    tmp_path: Path, name: str, gop: int, options: dict[str, str]
) -> None:
    path = encode(tmp_path / name, 60, gop=gop, b_frames=3, options=options)
    whole = read_frames(path, np.arange(60))
    keyframes = examine_file(path).keyframes
    with open_video(path) as video:
        assert skipping.skipping_pays(video, WANTED, 60)
    for table in (None, keyframes):
        part = read_frames(path, WANTED, keyframes=table, num_frames=60)
        assert np.array_equal(part, whole[WANTED])
        assert pick(path, WANTED, 60, keyframes=table) == WANTED.tolist()


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each frame that comes out of the decoder."""
    seen: list[int] = []

    def count(packet: object, name: str) -> list[object]:
        frames = decode_packet(packet, name)
        seen.extend(1 for _ in frames)
        return frames

    monkeypatch.setattr(skipping, "decode_packet", count)
    return seen


def test_unwanted_frames_are_not_decoded(tmp_path: Path, decoded: list[int]) -> None:
    path = encode(tmp_path / "a.mp4", 60, b_frames=3)
    with open_video(path) as video:
        video.stream.codec_context.skip_frame = "NONREF"
        kept = sum(1 for _ in decode_all(video))
    assert kept < 40  # of 60: there is something to skip
    assert pick(path, np.array([0, 59]), 60) == [0, 59]
    assert len(decoded) <= kept + 2


def test_what_does_not_correspond_goes_the_sure_way(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", 60, b_frames=3)
    with pytest.raises(SeekError, match="which frame they hold"):
        pick(path, WANTED, 61)  # a full decode is said to yield more frames than packets
    pictures = read_frames(path, WANTED, num_frames=61)
    assert [read_number(picture) for picture in pictures] == WANTED.tolist()


def test_where_nothing_can_be_skipped_and_other_codecs_are_left_alone(tmp_path: Path) -> None:
    one_group = {"bf": "0", "sc_threshold": "0"}
    plain = encode(tmp_path / "a.mp4", 60, gop=60, options=one_group)
    mpeg4 = encode(tmp_path / "a.avi", 60, codec="mpeg4", b_frames=2)
    reordered = encode(tmp_path / "b.mp4", 60, b_frames=3)
    for path in (plain, mpeg4):
        with open_video(path) as video:
            assert not skipping.skipping_pays(video, WANTED, 60)
    with open_video(reordered) as video:
        assert not skipping.skipping_pays(video, np.arange(60), 60)
        assert not skipping.skipping_pays(video, WANTED, 1_000_000)


def test_a_file_that_was_altered_after_indexing_is_refused(tmp_path: Path) -> None:
    path = encode(tmp_path / "videos" / "a.avi", 12, codec="mjpeg", pixels="yuvj420p")
    index = build_index(tmp_path / "videos", tmp_path / "index.h5")
    contents, wanted = path.read_bytes(), np.array([1, 4, 9])
    task = ReadTask(index.source(0), wanted, None, (48, 64), 0, 12)
    expected = read_frames(path, wanted, size=(48, 64))
    out = np.empty_like(expected)
    run_task(task, out)
    assert np.array_equal(out, expected)
    random, other_pictures = np.random.default_rng(5), 0
    for _ in range(40):
        damaged = bytearray(contents)
        damaged[int(random.integers(len(damaged)))] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        try:
            found = read_frames(path, wanted, size=(48, 64))
            other_pictures += not np.array_equal(found, expected)
        except VideoError:
            pass
        with pytest.raises(VideoError, match="was changed after it was indexed"):
            run_task(task, out)
    assert other_pictures >= 1  # which decode without a complaint
    path.write_bytes(contents)
    run_task(task, out)
    assert np.array_equal(out, expected)


def test_every_file_of_the_zoo(shared_data: Path, tmp_path: Path) -> None:
    index = build_index(shared_data / "zoo", tmp_path / "zoo.h5", timeout_seconds=120)
    random, skipped = np.random.default_rng(2), 0
    for video in range(len(index)):
        path, count = index.path(video), int(index.num_frames[video])
        wanted = np.sort(random.choice(count, min(8, count), replace=False))
        with open_video(path) as opened:
            if not skipping.skipping_pays(opened, wanted, count):
                continue
        skipped += 1
        plain = read_frames(path, wanted, size=(48, 64))
        for table in (None, index.keyframes(video)):
            part = read_frames(path, wanted, size=(48, 64), keyframes=table, num_frames=count)
            assert np.array_equal(part, plain), index.paths[video]
    assert skipped >= 15
