"""What a worker process of `batch.reader` does; the parent does not import this, nor PyAV."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdual.loaders.batch.reader import ReadTask
from fastdual.loaders.decode.picture import interleave
from fastdual.loaders.decode.read import read_planes
from fastdual.loaders.views.augment import augment


def run_task(task: ReadTask, out: NDArray[Any]) -> None:
    """Do one task of the pool.

    Args:
        task: What to read.
        out: [F, h, w, 3] uint8 for the upright, scaled frames; if the task has views,
            [V, T, H, W, 3] float32 for those.

    Raises:
        VideoError: The video cannot be decoded.
    """
    planes = decode_planes(task)
    if task.views is None:
        np.copyto(out, interleave(planes))
    else:
        augment(planes, task.views.plan, task.views.order, task.views.spec, out)


def decode_planes(task: ReadTask) -> NDArray[np.uint8]:
    """Return the wanted frames of a task, upright and scaled, [F, 3, h, w]."""
    return read_planes(
        task.source,
        task.frames,
        keyframes=task.keyframes,
        size=task.size,
        rotation=task.rotation,
        num_frames=task.num_frames,
    )
