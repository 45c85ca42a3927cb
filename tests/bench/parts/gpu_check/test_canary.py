"""The comparison of two decoders: right pictures pass, and each planted fault has its name."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.parts.gpu_check import canary
from bench.parts.results import read_rows
from fastdual.loaders.index import build_index
from fastdual.loaders.pack import PackOptions, Transcoding, pack
from fastdual.loaders.views.augment import MEAN, STD
from tests.loaders.clips import encode, picture

SCALE = 0.5


@pytest.fixture
def moving() -> Tensor:
    """[T, C, H, W] of 8 pictures that differ, normalised."""
    frames = torch.from_numpy(np.stack([picture(n, height=128, width=128) for n in range(8)]))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (frames.movedim(3, 1) - mean) / std


def test_the_pictures_of_another_scaler_are_the_same(moving: Tensor) -> None:
    assert canary.compare(moving, moving, SCALE) == ("same", 0)
    assert canary.compare(moving + 0.02, moving, SCALE)[0] == "same"


@pytest.mark.parametrize(("shift", "side"), [(1, "after"), (-1, "before")])
def test_a_frame_off_is_told_apart(moving: Tensor, shift: int, side: str) -> None:
    shown, truth = moving.roll(-shift, dims=0)[1:-1], moving[1:-1]
    assert canary.compare(shown, truth, SCALE)[0] == f"is shown as the frame {side} it"


def test_other_colours_and_shifted_rows_are_found(moving: Tensor) -> None:
    assert "another brightness" in canary.compare(moving.roll(16, dims=2), moving, SCALE)[0]
    brighter, difference = canary.compare(moving + 0.1, moving, SCALE)
    assert "another brightness" in brighter and difference == pytest.approx(6.0, abs=0.3)
    last = moving.clone()
    last[-1, 2] -= 0.3
    assert "another" in canary.compare(last, moving, SCALE)[0]


def test_a_pack_is_compared_video_by_video(tmp_path: Path) -> None:
    """On a CPU DALI decodes MJPEG; the second call has nothing to do."""
    for name in "ab":
        encode(tmp_path / "videos" / f"{name}.mp4", 12, height=128, width=176)
    index = build_index(tmp_path / "videos", tmp_path / "x.h5", num_workers=1)
    pack(index, tmp_path / "small.h5", PackOptions(transcoding=Transcoding(codec="mjpeg")))
    words = ["--data", str(tmp_path), "--out", str(tmp_path / "canary"), "--packs", "small"]
    words += ["--device", "cpu", "--decode", "dali-cpu"]
    canary.main(words)
    rows = read_rows(tmp_path / "canary.json")
    assert [row["verdict"] for row in rows] == ["same", "same"]
    assert {row["decoder"] for row in rows} == {"dali-cpu"}
    canary.main(words)
    assert read_rows(tmp_path / "canary.json") == rows
