"""Video files damaged at random: never a wrong picture, never a crash, and every batch whole.

`FASTDUAL_FUZZ_CASES=2000` runs as many cases; the usual number keeps the suite quick. What is
damaged after it was indexed is quarantined, all of it; what was damaged before is indexed as it
decodes, or quarantined.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastdual.loaders.batch import quarantine
from fastdual.loaders.index import VideoIndex, build_index
from fastdual.loaders.loader import ClipLoader
from fastdual.loaders.plan import ClipSpec
from tests.loaders.clips import encode
from tests.loaders.damage import damage

CASES = int(os.environ.get("FASTDUAL_FUZZ_CASES", "120"))
CHUNK = 60
SPEC = ClipSpec(
    frames_per_clip=2, frame_stride=3, resize_height=32, resize_width=32, crop_size=32,
    jitter_probability=0.0, blur_probability=0.0,
)  # fmt: skip
KINDS = {
    "h264.mp4": {"b_frames": 2, "gop": 6},
    "h264.mkv": {"gop": 250},
    "mpeg4.avi": {"codec": "mpeg4", "gop": 6},
    "vp9.webm": {"codec": "libvpx-vp9", "gop": 6},
    "mjpeg.avi": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "hevc.mp4": {"codec": "libx265", "gop": 6, "options": {"x265-params": "log-level=none"}},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> VideoIndex:
    """As many good videos as there are to be damaged; "a" sorts before "b"."""
    root = tmp_path_factory.mktemp("made") / "videos"
    originals = [
        encode(root.parent / name, 12, height=64, width=64, **options)  # type: ignore[arg-type]
        for name, options in KINDS.items()
    ]
    root.mkdir()
    for number in range(CHUNK):
        original = originals[number % len(originals)]
        for kind in "ab":
            shutil.copy(original, root / f"{number:03}{kind}-{original.name}")
    return build_index(root, root.parent / "x.h5", num_workers=1)


@pytest.mark.parametrize("chunk", range(0, CASES, CHUNK))
def test_damage_is_quarantined_or_was_indexed(
    chunk: int, whole: VideoIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "FAILURE_LIMIT", 1.0)  # half of the videos are damaged
    right, _ = load(whole, tmp_path / "none.jsonl")
    contents = {v: whole.path(v).read_bytes() for v in range(0, len(whole), 2)}
    for video, original in contents.items():
        rng = np.random.default_rng((chunk, video))
        whole.path(video).write_bytes(damage(original, rng))
    altered = {v for v in contents if whole.path(v).read_bytes() != contents[v]}
    assert len(altered) > len(contents) // 2
    try:
        shown, records = load(whole, tmp_path / "after.jsonl")
        anew = build_index(whole.root, tmp_path / "anew.h5", num_workers=1, timeout_seconds=30)
        indexed, worse = load(anew, tmp_path / "before.jsonl")
    finally:
        for video, original in contents.items():
            whole.path(video).write_bytes(original)

    assert {record["video"] for record in records} == altered and len(records) == len(altered)
    for video, (number, clips) in enumerate(shown):
        if video in altered:
            assert number not in altered and number != video  # another is in its place
        else:
            assert number == video and torch.equal(clips, right[video][1])

    names = {whole.paths[video] for video in altered}
    refused = {path for path, _ in anew.quarantine} | {anew.paths[r["video"]] for r in worse}
    assert refused and refused <= names
    assert len(anew) + len(anew.quarantine) == len(whole) == len(indexed) + len(anew.quarantine)
    print(f"{len(altered)} damaged: {len(anew.quarantine)} not indexed, {len(worse)} not loaded")


def load(index: VideoIndex, listed: Path) -> tuple[list[tuple[int, torch.Tensor]], list[Any]]:
    """(number, clips) shown in each place of an epoch in order, and the quarantine list."""
    options = {"batch_size": 4, "num_workers": 1, "shuffle": False, "timeout_seconds": 30.0}
    with ClipLoader(index, SPEC, quarantine_path=listed, drop_last=False, **options) as loader:  # type: ignore[arg-type]
        batches = list(loader)
    clips = torch.cat([batch.clips for batch in batches])[: len(index)]
    assert bool(torch.isfinite(clips).all()) and float(clips.abs().max()) < 3
    videos = torch.cat([batch.video_ids for batch in batches])[: len(index)].tolist()
    records = (
        [json.loads(line) for line in listed.read_text().splitlines()] if listed.exists() else []
    )
    assert len(records) == len({record["video"] for record in records})  # once each
    assert all(record["reason"] and "\n" not in record["reason"] for record in records)
    return list(zip(videos, clips, strict=True)), records
