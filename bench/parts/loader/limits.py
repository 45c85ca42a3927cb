"""What the workers of a bare decode and of a bare augmentation run.

It imports no more than the loader's own workers do.
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
    """Decode and scale the wanted frames and hand nothing over; returns how many there were."""
    return len(decode_planes(task))


def augment_only(task: AugmentTask) -> int:
    """Augment frames that lie ready in memory and hand nothing over; returns how many views."""
    spec = task.spec
    frames = _noise((_MOST_FRAMES, 3, spec.resize_height, spec.resize_width))
    out = _memory((spec.num_views, task.order.shape[2], spec.crop_size, spec.crop_size, 3))
    augment(frames, task.plan, task.order, spec, out)
    return len(out)


@lru_cache(maxsize=1)
def _noise(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@lru_cache(maxsize=1)
def _memory(shape: tuple[int, ...]) -> NDArray[Any]:
    return np.empty(shape, np.float32)
