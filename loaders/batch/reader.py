"""Decode with PyAV: one video per task, in worker processes that run `batch.worker`.

Frame i is the same picture for every decoder: `decode.video` numbers frames by a full decode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastdual.errors import FailureError
from fastdual.loaders.decode.encoded import Encoded
from fastdual.loaders.decode.keyframes import Keyframes
from fastdual.loaders.index.table import VideoIndex
from fastdual.loaders.plan import ClipPlan, ClipSpec
from fastdual.loaders.pool import ProcessPool, TaskFailure
from fastdual.loaders.pool.memory import Target

Ints = NDArray[np.int64]

_RUN_TASK = "fastdual.loaders.batch.worker:run_task"


def unique_frames(places: Ints) -> tuple[list[Ints], Ints]:
    """Return what must be decoded, and where the clips find it.

    Args:
        places: [B, K, T] the frames of B videos' clips, as `VideoIndex.places` returns them.

    Returns:
        B arrays [F] of wanted places, strictly increasing; and, [B, K, T], where in its video's
        array each frame of the clips is.
    """
    wanted, order = [], np.empty_like(places)
    for row, clips in enumerate(places):
        numbers, positions = np.unique(clips, return_inverse=True)
        wanted.append(numbers)
        order[row] = positions.reshape(clips.shape)
    return wanted, order


@dataclass(frozen=True)
class AugmentTask:
    """What a worker needs to make the views of one video, see `views.augment`."""

    spec: ClipSpec
    plan: ClipPlan
    order: Ints


@dataclass(frozen=True)
class ReadTask:
    """What a worker needs to decode the wanted frames of one video, and to augment them."""

    source: Encoded
    frames: Ints
    keyframes: Keyframes | None
    size: tuple[int, int]
    rotation: int
    num_frames: int
    views: AugmentTask | None = None


class FrameReader:
    """Decode with PyAV in worker processes, several videos at a time.

    Args:
        index: The videos.
        spec: For the size of the frames, and for the views.
        num_workers: Worker processes.
        timeout_seconds: A video that takes longer has failed.
    """

    def __init__(
        self, index: VideoIndex, spec: ClipSpec, num_workers: int, timeout_seconds: float
    ) -> None:
        self._index, self._spec = index, spec
        self._pool = ProcessPool(
            _RUN_TASK, num_workers=num_workers, timeout_seconds=timeout_seconds, send_ahead=True
        )
        self._good: set[int] = set()  # videos that were read in this run
        self._videos: dict[int, int] = {}

    def submit(self, video: int, frames: Ints, out: Target) -> int:
        """Queue the decoding of one video's wanted frames into `out`; return a ticket.

        Args:
            video: Index number.
            frames: [F] wanted frame numbers, strictly increasing.
            out: [F, h, w, 3] uint8, of the resized size.
        """
        return self._submit(video, self._task(video, frames, None), out)

    def submit_views(self, plan: ClipPlan, frames: Ints, order: Ints, out: Target) -> int:
        """Queue the making of one video's views in `out`; return a ticket.

        Args:
            plan: Of this video alone.
            frames, order: As `unique_frames` returns them.
            out: [V, T, H, W, 3] float32.
        """
        task = self._task(int(plan.videos[0]), frames, AugmentTask(self._spec, plan, order))
        return self._submit(int(plan.videos[0]), task, out)

    def _submit(self, video: int, task: ReadTask, out: Target) -> int:
        ticket = self._pool.submit(task, out=out, patient=video in self._good)
        self._videos[ticket] = video
        return ticket

    def _task(self, video: int, frames: Ints, views: AugmentTask | None) -> ReadTask:
        keyframes = self._index.keyframes(video)
        if keyframes is not None:
            # Only the keyframes that are nearest before a wanted frame are of use.
            near = np.unique(np.searchsorted(keyframes.frames, frames, side="right") - 1)
            near = near[near >= 0]
            keyframes = Keyframes(
                keyframes.frames[near], keyframes.pts[near], keyframes.offsets[near]
            )
        return ReadTask(
            source=self._index.source(video),
            frames=frames,
            keyframes=keyframes,
            size=(self._spec.resize_height, self._spec.resize_width),
            rotation=int(self._index.rotation[video]),
            num_frames=int(self._index.num_frames[video]),
            views=views,
        )

    def wait(self, ticket: int) -> TaskFailure | None:
        """Wait until a target is filled and forget the ticket; return the failure, if any.

        Raises:
            FailureError: The storage or the machine has stalled for too long.
        """
        failure: TaskFailure | None = self._pool.result(ticket)
        self._pool.release(ticket)
        video = self._videos.pop(ticket)
        if failure is None:
            self._good.add(video)
        elif failure.kind == "stalled":
            raise FailureError(
                f"the storage or the machine does not answer ({self._index.path(video)} "
                f"{failure.reason}): start again when it does"
            )
        return failure

    def wait_for_room(self, tickets: Sequence[int]) -> bool:
        """Wait until targets are filled, or the workers want more to do; see `ProcessPool`."""
        return self._pool.wait_for_room(tickets)

    @property
    def idle_seconds(self) -> float:
        """Time that the workers have waited for something to decode, of all together."""
        return self._pool.idle_seconds

    def close(self) -> None:
        """Stop the workers."""
        self._pool.close()
