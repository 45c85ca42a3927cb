"""Film strips of videos, small enough to lie inside an HTML page.

Shapes: K frames a strip.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image  # comes with matplotlib

from fastdual.loaders.batch.decoder import Requested
from fastdual.loaders.index import VideoIndex
from fastdual.loaders.loader import ClipLoader
from fastdual.loaders.plan import ClipSpec
from fastdual.loaders.views.augment import IMAGENET_MEAN, IMAGENET_STD

SIDE, FRAMES = 72, 6
_QUALITY = 72
_SPLIT = "fastdual report"
_SPEC = ClipSpec(
    mode="evaluate",
    frames_per_clip=1,
    frame_stride=1,
    num_segments=1,
    clips_per_video=FRAMES,
    resize_height=SIDE,
    resize_width=96,
    crop_size=SIDE,
)


def film_strips(
    index: VideoIndex,
    videos: Sequence[int],
    *,
    decode: Requested = "auto",
    num_workers: int | None = None,
) -> dict[int, str]:
    """JPEG data URIs by video number: six frames side by side, from its start to its end.

    A video that cannot be decoded has none.
    """
    if not len(videos):
        return {}
    wanted = np.unique(np.asarray(videos, dtype=np.int64))
    loader = ClipLoader(
        replace(index, splits={**index.splits, _SPLIT: wanted}),
        _SPEC,
        batch_size=min(32, len(wanted)),
        split=_SPLIT,
        decode=decode if decode != "nvdec" else "auto",  # the pictures are wanted on the CPU
        num_workers=num_workers,
        shuffle=False,
        drop_last=False,
    )
    mean, std = (torch.tensor(of).view(3, 1, 1) for of in (IMAGENET_MEAN, IMAGENET_STD))
    strips: dict[int, str] = {}
    with loader:
        for batch in loader:
            pictures = (batch.clips[:, :, :, 0] * std + mean).clamp(0, 1).mul(255).round()
            rows = pictures.to(torch.uint8).permute(0, 3, 1, 4, 2)  # [B, side, K, side, 3]
            for video, row in zip(batch.video_ids.tolist(), rows, strict=True):
                strips[video] = _data_uri(row.reshape(SIDE, FRAMES * SIDE, 3).numpy())
    return strips


def _data_uri(picture: NDArray[np.uint8]) -> str:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
