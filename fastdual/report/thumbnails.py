"""Film strips of videos, small enough for the inside of an HTML page.

Shapes: B videos, K frames per strip.
"""

import base64
import io
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image  # comes with matplotlib

from fastdual.evaluate.passes import pictures
from fastdual.loaders.batch.decoder import Requested
from fastdual.loaders.index import VideoIndex
from fastdual.loaders.views.augment import IMAGENET_MEAN, IMAGENET_STD

SIDE, FRAMES = 72, 6
_QUALITY = 72


def film_strips(
    index: VideoIndex,
    videos: Sequence[int],
    *,
    decode: Requested = "auto",
    num_workers: int | None = None,
) -> dict[int, str]:
    """Return film strips as JPEG data URIs: six frames side by side, from start to end.

    Args:
        index: The videos.
        videos: Numbers of videos.
        decode: Decoder, or "auto".
        num_workers: Decoding processes; None: as many as suit this machine.

    Returns:
        The strips by video number; a video that cannot be decoded has none.
    """
    if not len(videos):
        return {}
    wanted = np.unique(np.asarray(videos, dtype=np.int64))
    mean, std = (torch.tensor(of).view(3, 1, 1) for of in (IMAGENET_MEAN, IMAGENET_STD))
    strips: dict[int, str] = {}
    for numbers, shown in pictures(
        index, wanted, count=FRAMES, side=SIDE, decode=decode, num_workers=num_workers
    ):
        pixels = (shown * std + mean).clamp(0, 1).mul(255).round().to(torch.uint8)
        rows = pixels.permute(0, 3, 1, 4, 2)  # [B, side, K, side, 3]
        for video, row in zip(numbers, rows, strict=True):
            strips[video] = _data_uri(row.reshape(SIDE, FRAMES * SIDE, 3).numpy())
    return strips


def _data_uri(picture: NDArray[np.uint8]) -> str:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
