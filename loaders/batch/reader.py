"""Decode with PyAV: the wanted frames of one video per task, in worker processes.

Frame i is the same picture for every decoder: `decode.video` numbers frames by a full decode.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdual.loaders.batch.decoder import colour_matrix
from fastdual.loaders.decode.encoded import Encoded
from fastdual.loaders.decode.keyframes import Keyframes
from fastdual.loaders.index.table import VideoIndex
from fastdual.loaders.plan import ClipPlan, ClipSpec
from fastdual.loaders.pool.channel import Deferred, SharedMemory
from fastdual.loaders.pool.pool import ProcessPool, TaskFailure
from fastdual.loaders.views.augment import augment

Ints = NDArray[np.int64]

READ_TASK = "fastdual.loaders.batch.reader:read_task"


def unique_frames(plan: ClipPlan) -> tuple[list[Ints], Ints]:
    """What must be decoded: each video's wanted frames once, sorted, and where the clips find them.

    Returns:
        B arrays [F] of frame numbers, strictly increasing; and [B, K, T] places in them.
    """
    wanted, order = [], np.empty_like(plan.frames)
    for row, frames in enumerate(plan.frames):
        numbers, places = np.unique(frames, return_inverse=True)
        wanted.append(numbers)
        order[row] = places.reshape(frames.shape)
    return wanted, order


@dataclass(frozen=True)
class ExamineTask:
    """Ask a worker what decides whether DALI would show the pictures of a video as PyAV does."""

    source: Encoded
    num_frames: int


@dataclass(frozen=True)
class Examined:
    """The answer: the colour matrix that the video states (libav's number), and whether DALI, which
    numbers frames by the times of packets, would number them otherwise; the reason, or None."""

    colour_space: int
    misnumbered: str | None


@dataclass(frozen=True)
class AugmentTask:
    """What a worker needs to make the views of one video, see `loaders.augment`."""

    spec: ClipSpec
    plan: ClipPlan
    order: Ints


@dataclass(frozen=True)
class ReadTask:
    """What a worker needs to decode the wanted frames of one video, and to augment them."""

    source: Encoded
    frames: Ints
    keyframes: tuple[Ints, Ints, Ints] | None
    size: tuple[int, int]
    rotation: int
    num_frames: int
    views: AugmentTask | None = None


def read_task(task: ReadTask | ExamineTask) -> NDArray[np.uint8] | Deferred | Examined:
    """Do one task in a worker process.

    Returns:
        The upright, scaled frames [F, h, w, 3]; or the views [V, T, H, W, 3] in float32, made where
        they are handed over; or what was asked of a file.
    """
    from fastdual.loaders.decode.picture import interleave

    if isinstance(task, ExamineTask):
        return _examine(task)
    planes = decode_planes(task)
    return interleave(planes) if task.views is None else _views(planes, task.views)


def _examine(task: ExamineTask) -> Examined:
    from fastdual.loaders.decode.video import demux, open_video

    with open_video(task.source) as video:
        times = [packet.pts for packet in demux(video) if packet.size]
        codec = video.stream.codec_context
        misnumbered = None
        if any(time is None or time < 0 for time in times):
            misnumbered = "DALI leaves out frames whose time is missing or negative"
        # In MPEG-4, a packet may hold two pictures and the next one none; DALI takes them apart.
        elif len(times) != task.num_frames and codec.codec.canonical_name != "mpeg4":
            misnumbered = f"it has {len(times)} packets for {task.num_frames} frames"
        return Examined(int(codec.colorspace), misnumbered)


def decode_planes(task: ReadTask) -> NDArray[np.uint8]:
    """The wanted frames of a task, upright and scaled, [F, 3, h, w]."""
    from fastdual.loaders.decode.read import read_planes

    return read_planes(
        task.source,
        task.frames,
        keyframes=None if task.keyframes is None else Keyframes(*task.keyframes),
        size=task.size,
        rotation=task.rotation,
        num_frames=task.num_frames,
    )


def _views(planes: NDArray[np.uint8], task: AugmentTask) -> Deferred:
    spec, num_frames = task.spec, task.order.shape[2]
    shape = (spec.num_views, num_frames, spec.crop_size, spec.crop_size, 3)
    return Deferred(shape, "<f4", lambda out: augment(planes, task.plan, task.order, spec, out))


class FrameReader:
    """Decodes with PyAV in worker processes; several videos are under way at a time."""

    def __init__(
        self, index: VideoIndex, spec: ClipSpec, *, num_workers: int, timeout_seconds: float
    ) -> None:
        self._index, self._spec = index, spec
        self._pool = ProcessPool(
            READ_TASK, num_workers=num_workers, timeout_seconds=timeout_seconds, send_ahead=True
        )

    def submit(self, video: int, frames: Ints) -> int:
        """Queue the wanted frames of one video and return a ticket."""
        return self._pool.submit(self._task(video, frames, None))

    def submit_views(
        self,
        plan: ClipPlan,
        frames: Ints,
        order: Ints,
        *,
        memory: SharedMemory | None = None,
        offset: int = 0,
    ) -> int:
        """Queue the views of a plan of one video, to be made in `memory` from byte `offset` on.

        The other arguments are as `unique_frames` returns them.
        """
        task = self._task(int(plan.videos[0]), frames, AugmentTask(self._spec, plan, order))
        return self._pool.submit(task, memory=memory, offset=offset)

    def _task(self, video: int, frames: Ints, views: AugmentTask | None) -> ReadTask:
        keyframes = self._index.keyframes(video)
        table = None
        if keyframes is not None:
            # Only the keyframes that are nearest before a wanted frame are of use.
            near = np.unique(np.searchsorted(keyframes.frames, frames, side="right") - 1)
            near = near[near >= 0]
            table = (keyframes.frames[near], keyframes.pts[near], keyframes.offsets[near])
        source = self._index.source(video)
        rotation = int(self._index.rotation[video])
        num_frames = int(self._index.num_frames[video])
        size = self._spec.resize_height, self._spec.resize_width
        return ReadTask(source, frames, table, size, rotation, num_frames, views)

    def submit_examination(self, video: int) -> int:
        """Queue the question whether DALI can be given a file, and return a ticket."""
        num_frames = int(self._index.num_frames[video])
        return self._pool.submit(ExamineTask(self._index.source(video), num_frames))

    def examined(self, ticket: int) -> NDArray[np.float64] | str:
        """Wait for the answer and forget the ticket.

        Returns:
            What mends DALI's colours, see `colour_matrix`; or why PyAV must decode the file.
        """
        answer: Examined | TaskFailure = self._pool.result(ticket)
        self._pool.release(ticket)
        if isinstance(answer, TaskFailure):
            return answer.reason
        if answer.misnumbered is not None:
            return answer.misnumbered
        matrix = colour_matrix(answer.colour_space)
        return "DALI does not know the colour matrix that it states" if matrix is None else matrix

    def result(self, ticket: int) -> NDArray[Any] | TaskFailure | None:
        """Wait for a ticket.

        Returns:
            Frames [F, h, w, 3] or views [V, T, H, W, 3], valid until `release`; None for views that
            were made in memory of the caller's; or the reason of the failure.
        """
        made: NDArray[Any] | TaskFailure | None = self._pool.result(ticket)
        return made

    def release(self, ticket: int) -> None:
        """Give the frames' memory back; a ticket that was not waited for is dropped."""
        self._pool.release(ticket)

    def close(self) -> None:
        """Stop the workers."""
        self._pool.close()
