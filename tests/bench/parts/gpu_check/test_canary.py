"""The comparison of two decoders: right pictures pass, and each planted fault has its name."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench.parts.gpu_check import canary
from bench.parts.results import read_rows
from fastdual.loaders.index import build_index
from fastdual.loaders.pack import PackOptions, Transcoding, pack
from tests.loaders.clips import encode


@pytest.fixture
def moving() -> Tensor:
    """[T, C, H, W] of a texture that moves by a pixel per frame, normalised."""
    texture = torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(0)) * 4 - 2
    return torch.stack([texture.roll(step, dims=2) for step in range(8)])


def test_the_pictures_of_another_scaler_are_the_same(moving: Tensor) -> None:
    assert canary.compare(moving + 0.02, moving)[0] == "same"


@pytest.mark.parametrize(("shift", "verdict"), [(1, "one frame late"), (-1, "one frame early")])
def test_a_frame_off_is_told_apart(moving: Tensor, shift: int, verdict: str) -> None:
    assert canary.compare(moving.roll(-shift, dims=0), moving)[0] == verdict


def test_other_colours_and_shifted_rows_are_found(moving: Tensor) -> None:
    assert canary.compare(moving.roll(4, dims=2), moving)[0] == "other pictures"
    brighter, difference = canary.compare(moving + 0.1, moving)
    assert brighter == "other pictures" and difference == pytest.approx(5.7, abs=0.2)


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
