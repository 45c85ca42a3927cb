"""bench.packs at a small size: what it writes; quality and decoded frames are measured right."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import packs
from fastdual.loaders.decode.frame_order import FrameOrder
from fastdual.loaders.decode.keyframes import Keyframes
from fastdual.loaders.index.probe import examine_file
from tests.loaders.clips import encode


def test_a_small_run_compares_the_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(2):
        encode(tmp_path / "videos" / f"{number}.mp4", 90, height=128, width=176, b_frames=2)
    ways = ("as they are", "h264, shown order, GOP 8", "h264, GOP 8")
    monkeypatch.setattr(packs, "WAYS", {name: packs.WAYS[name] for name in ways})
    out = tmp_path / "packs"
    arguments = ["--data", str(tmp_path / "videos"), "--draws", "2", "--out", str(out)]
    assert packs.main(arguments) == 0
    whole, shown, phases = json.loads(out.with_suffix(".json").read_text())
    assert whole["psnr"] == float("inf") and whole["ssim"] == 1.0
    assert shown["psnr"] > 25 and phases["psnr"] > 25 and phases["ssim"] > 0.9
    assert phases["dali_frames_stride_4"] < shown["dali_frames_stride_4"]


def test_ssim_is_one_for_the_same_and_less_for_any_other() -> None:
    random = torch.Generator().manual_seed(0)
    picture = torch.rand(2, 1, 32, 32, generator=random) * 255
    assert packs.ssim(picture, picture) == pytest.approx(1.0)
    assert packs.ssim(picture + 20, picture) < packs.ssim(picture + 5, picture) < 1.0
    assert packs.ssim(255 - picture, picture) < 0


def test_frames_are_counted_as_a_decoder_decodes_them(tmp_path: Path) -> None:
    facts = examine_file(encode(tmp_path / "a.mp4", 40))
    keyframes = Keyframes.of([[16, 32], [0, 0], [0, 0]])
    video = packs.Packed(b"", replace(facts, keyframes=keyframes), FrameOrder(40, 1, (48, 64)))
    assert packs.decoded_frames(video, np.array([3, 18]), 0) == 4 + 3
    assert packs.decoded_frames(video, np.array([3, 14]), 0) == 4 + 11
    assert packs.decoded_frames(video, np.array([10, 18]), 10) == 11 + 8  # decoded on
    assert packs.decoded_frames(video, np.array([3, 18]), 10) == 4 + 3
