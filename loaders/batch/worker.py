"""What a worker process of `batch.reader` does; the parent does not import this, nor PyAV."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdual.loaders.batch.decoder import colour_matrix
from fastdual.loaders.batch.reader import ExamineTask, ReadTask
from fastdual.loaders.decode.picture import interleave
from fastdual.loaders.decode.read import read_planes
from fastdual.loaders.decode.video import demux, open_video
from fastdual.loaders.views.augment import augment


def run_task(
    task: ReadTask | ExamineTask, out: NDArray[Any] | None = None
) -> NDArray[np.float64] | str | None:
    """Do one task of the pool.

    Args:
        task: What to read.
        out: For a ReadTask, [F, h, w, 3] uint8 for the upright, scaled frames; if the task has
            views, [V, T, H, W, 3] float32 for those.

    Returns:
        The answer to an ExamineTask, see `FrameReader.examined`.

    Raises:
        VideoError: The video cannot be decoded.
    """
    if isinstance(task, ExamineTask):
        return _examine(task)
    assert out is not None
    planes = decode_planes(task)
    if task.views is None:
        np.copyto(out, interleave(planes))
    else:
        augment(planes, task.views.plan, task.views.order, task.views.spec, out)
    return None


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


def _examine(task: ExamineTask) -> NDArray[np.float64] | str:
    """Return the matrix that corrects DALI's colours, or why PyAV must decode the video."""
    with open_video(task.source) as video:
        times = [packet.pts for packet in demux(video) if packet.size]
        codec = video.stream.codec_context
        if any(time is None or time < 0 for time in times):
            return "DALI leaves out frames whose time is missing or negative"
        # In MPEG-4, a packet may hold two pictures and the next one none; DALI takes them apart.
        if len(times) != task.num_frames and codec.codec.canonical_name != "mpeg4":
            return f"it has {len(times)} packets for {task.num_frames} frames"
        matrix = colour_matrix(int(codec.colorspace))
        return "DALI does not know the colour matrix that it states" if matrix is None else matrix
