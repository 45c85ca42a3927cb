"""Decoders of other libraries, and the two that are wrong on purpose."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from bench.parts.loader import decoders
from tests.loaders.clips import encode, read_frames, read_number


def test_the_controls_are_wrong_by_one_frame(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", 20, b_frames=2)
    wanted, size = np.array([0, 3, 4, 19]), (48, 64)
    exact, late, early = (
        decode(path, wanted, size).numpy()
        for decode in (
            decoders.pyav,
            decoders.one_frame_late,
            decoders.one_frame_early,
        )
    )
    assert [read_number(picture) for picture in exact] == [0, 3, 4, 19]
    assert [read_number(picture) for picture in late] == [0, 2, 3, 18]
    assert [read_number(picture) for picture in early] == [1, 4, 5, 19]


@pytest.mark.parametrize(
    ("package", "decode"),
    [
        ("decord", decoders.decord),
        ("spdl", decoders.spdl),
        ("video_reader", decoders.video_reader),
    ],
)
def test_the_others_number_frames_as_we_do(
    package: str, decode: decoders.Decode, tmp_path: Path
) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed (requirements/loader-contestants.txt)")
    path = encode(tmp_path / "a.mp4", 20, b_frames=2)
    wanted = np.array([0, 3, 4, 19])
    for size in ((48, 64), (48, 63)):
        theirs = decode(path, wanted, size).numpy().astype(int)
        theirs = theirs if theirs.shape[-1] == 3 else theirs.transpose(0, 2, 3, 1)
        # Scaled, edges of the bars differ by the scaler, by less than another frame does.
        assert np.abs(theirs - read_frames(path, wanted, size=size)).mean() < 4
