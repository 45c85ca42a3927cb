"""Tasks of the workers of bare decode and bare augmentation.

This module imports no more than the loader's own workers import.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdual.loaders.batch.reader import AugmentTask, ReadTask
from fastdual.loaders.batch.worker import decode_planes
from fastdual.loaders.views.augment import augment

_MOST_FRAMES = 64


def decode_only(task: ReadTask) -> int:
    """Decode and scale the wanted frames and drop them; return their number."""
    return len(decode_planes(task))


def augment_only(task: AugmentTask) -> int:
    """Augment frames that are in memory already and drop the views; return their number."""
    spec = task.spec
    frames = _noise((_MOST_FRAMES, 3, spec.resize_height, spec.resize_width))
    out = _memory((spec.num_views, *spec.clip_shape, 3))
    augment(frames, task.plan, task.order, spec, out)
    return len(out)


@lru_cache(maxsize=1)
def _noise(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@lru_cache(maxsize=1)
def _memory(shape: tuple[int, ...]) -> NDArray[Any]:
    return np.empty(shape, np.float32)
