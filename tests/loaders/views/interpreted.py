"""The views by Triton's kernel, interpreted on a CPU, for tests/loaders/views/test_fused.py.

`python -m tests.loaders.views.interpreted INDEX ROOT FILE` under TRITON_INTERPRET=1 makes the views
of CASES from given frames, and loads batches of the index whose videos DALI decodes.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastdual.loaders import loader
from fastdual.loaders.batch.decoder import DecodeChoice
from fastdual.loaders.batch.reader import unique_frames
from fastdual.loaders.index import load_index
from fastdual.loaders.plan import ClipSpec
from fastdual.loaders.views.graph import FusedGraph, Rows
from tests.loaders.loading import load
from tests.loaders.views.test_augment import ODD
from tests.loaders.views.test_graph import SPECS, noise_video, plan_for

VIDEOS = [4, 1]
ROWS = np.array([2, 0])  # row 1 of the batch is another's
_NAMES = ("four segments", "about 128", "finetune", "independent", "evaluate")
CASES = {name: replace(SPECS[name], frames_per_clip=4) for name in _NAMES} | {
    "odd": ODD,
    "four tiles": replace(ODD, resize_height=35, crop_size=34, views=(0, 1)),
    # 3 sigma reach from border to border, and the mirror is mirrored.
    "reach of the crop": replace(ODD, crop_size=7, blur_sigma=(2.25, 2.3)),
}


def fused_views(spec: ClipSpec, dtype: torch.dtype, device: str = "cpu") -> Tensor:
    """[3, V, T, H, W, C]: two videos in rows 2 and 0, and NaN."""
    plan = plan_for(spec, VIDEOS)
    wanted, order = unique_frames(plan.frames)
    pairs = zip(VIDEOS, wanted, strict=True)
    videos = [noise_video(video, spec)[frames] for video, frames in pairs]
    shape = (3, spec.num_views, *spec.clip_shape, 3)
    clips = torch.full(shape, torch.nan, dtype=dtype, device=device)
    graph = FusedGraph(
        spec, source="frames", device=torch.device(device), max_batch_size=2, num_threads=1
    )
    assert graph.fill(plan, order, {"frames": videos}, [Rows(clips, ROWS)]) is None
    return clips


def main(index: str, root: str, target: str) -> None:
    made: dict[str, Any] = {name: fused_views(CASES[name], torch.float32) for name in CASES}
    made["half"] = fused_views(CASES["evaluate"], torch.float16)
    loader.choose_decoder = lambda *_: DecodeChoice("dali-cpu", "for a test")
    made["batches"] = [
        (batch.clips, batch.decoders)
        for batch in load(load_index(Path(index), root=Path(root)), 2, augment="triton")
    ]
    torch.save(made, target)


if __name__ == "__main__":
    main(*sys.argv[1:])
