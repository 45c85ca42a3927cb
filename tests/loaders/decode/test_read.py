"""Reading the wanted frames: the same pictures with a seek table as without."""

from pathlib import Path

import numpy as np
import pytest

from fastdual.loaders.decode.keyframes import Keyframes
from fastdual.loaders.decode.video import (
    VideoError,
)
from fastdual.loaders.index.probe import examine_file
from tests.loaders.clips import encode, numbers, read_frames, read_number


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


def test_a_wrong_seek_table_still_gives_the_right_frames(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", 40, gop=8, options={"sc_threshold": "0"})
    table = examine_file(path).keyframes
    wrong = Keyframes(table.frames, table.pts, table.offsets + 1)
    frames = read_frames(path, np.array([2, 30]), keyframes=wrong)
    assert [read_number(frame) for frame in frames] == [2, 30]


def test_reading_past_the_end_says_that_the_file_changed(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", 5)
    with pytest.raises(VideoError, match="has 5 frames, frame 7 is wanted"):
        read_frames(path, np.array([1, 7]))


@pytest.mark.parametrize("frames", [[], [-1], [2, 2], [3, 1]])
def test_frames_must_be_sorted_and_unique(tmp_path: Path, frames: list[int]) -> None:
    with pytest.raises(ValueError, match="strictly increasing"):
        read_frames(encode(tmp_path / "a.mp4", 5), np.array(frames, np.int64))
