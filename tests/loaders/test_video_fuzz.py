"""Video files damaged at random: quarantined or decoded, and every batch whole.

`FASTDUAL_FUZZ_CASES=2000` runs as many cases; the usual number keeps the suite quick. A raw file
has no checksum, so a flipped bit may decode without a complaint; what then is shown is counted.
"""

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from fastdual.loaders import quarantine
from fastdual.loaders.index import VideoIndex, build_index
from fastdual.loaders.loader import ClipLoader
from fastdual.loaders.plan import ClipSpec
from tests.loaders.clips import encode
from tests.loaders.test_pack_fuzz import damage

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
def test_damaged_videos_are_quarantined_or_decoded(
    chunk: int, whole: VideoIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "FAILURE_LIMIT", 1.0)  # half of the videos are damaged
    options = {"batch_size": 8, "num_workers": 1, "shuffle": False, "timeout_seconds": 30.0}
    with ClipLoader(whole, SPEC, **options) as loader:  # type: ignore[arg-type]
        right = torch.cat([batch.clips for batch in loader])
    contents = {v: whole.path(v).read_bytes() for v in range(0, len(whole), 2)}
    for video, original in contents.items():
        rng = np.random.default_rng((chunk, video))
        whole.path(video).write_bytes(damage(original, rng))
    listed = tmp_path / "quarantine.jsonl"
    try:
        with ClipLoader(whole, SPEC, quarantine_path=listed, **options) as loader:  # type: ignore[arg-type]
            batches = list(loader)
    finally:
        for video, original in contents.items():
            whole.path(video).write_bytes(original)
    assert [batch.clips.shape for batch in batches] == [(8, 4, 3, 2, 32, 32)] * len(loader)
    shown = torch.cat([batch.clips for batch in batches])
    assert bool(torch.isfinite(shown).all()) and float(shown.abs().max()) < 3
    numbers = torch.cat([batch.video_ids for batch in batches]).tolist()
    records = [json.loads(line) for line in listed.read_text().splitlines()]
    bad = {int(record["video"]) for record in records}
    assert len(records) == len(bad) and bad <= set(contents)  # once each, and no good one
    assert all(record["reason"] and "\n" not in record["reason"] for record in records)
    outcomes = Counter[str]()
    for place, number in enumerate(numbers):
        if place in bad:
            assert number not in bad and number != place  # another is in its place
            outcomes["quarantined"] += 1
            continue
        assert number == place
        difference = float((shown[place] - right[place]).abs().mean())
        if place % 2:  # a good one between two bad ones
            assert difference == 0
        else:
            outcomes["decoded alike" if difference == 0 else "decoded to other pictures"] += 1
    print(dict(outcomes))
    assert outcomes["quarantined"] and sum(outcomes.values()) == CHUNK
