"""Where pictures come from: which decoder serves which file, and the PyAV path's worker task.

Frame i is the same picture in every backend (`loaders.video` numbers frames by a full decode).
`nvdec` and `dali-cpu` decode encoded bytes inside the DALI graph; `pyav` decodes and scales in
worker processes and feeds the graph with frames. A file that DALI cannot decode, or numbers
differently, goes through PyAV whatever the backend, for a reason that is stated.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fastdual.loaders.errors import InputError
from fastdual.loaders.plan import ClipPlan, ClipSpec
from fastdual.loaders.pool import ProcessPool, TaskFailure
from fastdual.loaders.video_index import VideoIndex

Ints = NDArray[np.int64]
Backend = Literal["nvdec", "dali-cpu", "pyav"]
Requested = Literal["auto", "nvdec", "dali-cpu", "pyav"]

READ_TASK = "fastdual.loaders.decode:read_task"
_DALI_CPU_CODECS = {"vp8", "vp9", "mjpeg"}
_NVDEC_CODECS = {"h264", "hevc", "vp8", "vp9", "mpeg4", "av1"}
# NVDEC refuses smaller pictures (width, height); the limits of the generation with the largest.
_NVDEC_SMALLEST = {"hevc": (144, 144), "vp9": (128, 128), "av1": (128, 128), "h264": (48, 16)}


@dataclass(frozen=True)
class DecodeChoice:
    """The decoder of a loader, and why it is this one."""

    backend: Backend
    reason: str


def choose_backend(requested: Requested, device: str) -> DecodeChoice:
    """Pick the decoder for a device; `auto` takes the fastest that decodes every usual codec.

    Raises:
        InputError: an unknown name, or a decoder that the device does not have.
    """
    on_gpu = device.startswith("cuda")
    if requested not in get_args(Requested):
        names = ", ".join(get_args(Requested))
        raise InputError(f"decode is {requested!r}; choose one of {names}")
    if requested == "nvdec" and not on_gpu:
        raise InputError(f"decode nvdec needs a CUDA device, not {device!r}; use auto or pyav")
    if requested == "dali-cpu" and on_gpu:
        raise InputError("decode dali-cpu runs on a CPU; on a CUDA device use auto, nvdec or pyav")
    if requested != "auto":
        return DecodeChoice(requested, "as asked")
    if on_gpu:
        return DecodeChoice("nvdec", "the GPU's decoders leave the CPU and the training alone")
    return DecodeChoice(
        "pyav", "DALI on a CPU knows neither H.264 nor HEVC nor MPEG-4, PyAV decodes them all"
    )


def why_not_dali(backend: Backend, index: VideoIndex, video: int) -> str | None:
    """Say why a file must be decoded by PyAV rather than inside the DALI graph; None if it can."""
    codec = index.codecs[video]
    height, width = (int(length) for length in index.size[video])
    if backend == "pyav":
        return "pyav is the decoder"
    if backend == "dali-cpu":
        return None if codec in _DALI_CPU_CODECS else f"DALI decodes no {codec} on a CPU"
    if codec not in _NVDEC_CODECS:
        return f"NVDEC decodes no {codec}"
    smallest_width, smallest_height = _NVDEC_SMALLEST.get(codec, (0, 0))
    if width < smallest_width or height < smallest_height:
        return f"NVDEC refuses {codec} of {width}x{height}"
    return None


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
class ReadTask:
    """What a worker needs to decode the wanted frames of one video."""

    path: str
    frames: Ints
    keyframes: tuple[Ints, Ints, Ints] | None
    size: tuple[int, int]
    rotation: int


def read_task(task: ReadTask) -> NDArray[np.uint8]:
    """Decode one task's frames, upright and scaled; [F, h, w, 3]. Runs in a worker process."""
    from fastdual.loaders.video import Keyframes, read_frames

    keyframes = None if task.keyframes is None else Keyframes(*task.keyframes)
    return read_frames(
        Path(task.path),
        task.frames,
        keyframes=keyframes,
        size=task.size,
        rotation=task.rotation,
    )


class FrameReader:
    """Decodes with PyAV in worker processes; several videos are under way at a time."""

    def __init__(
        self, index: VideoIndex, spec: ClipSpec, *, num_workers: int, timeout_seconds: float
    ) -> None:
        self._index, self._size = index, (spec.resize_height, spec.resize_width)
        self._pool = ProcessPool(
            READ_TASK, num_workers=num_workers, timeout_seconds=timeout_seconds
        )

    def submit(self, video: int, frames: Ints) -> int:
        """Queue the wanted frames of one video and return a ticket."""
        keyframes = self._index.keyframes(video)
        table = None
        if keyframes is not None:
            # Only the keyframes that are nearest before a wanted frame are of use.
            near = np.unique(np.searchsorted(keyframes.frames, frames, side="right") - 1)
            near = near[near >= 0]
            table = (keyframes.frames[near], keyframes.pts[near], keyframes.offsets[near])
        path = os.fspath(self._index.path(video))
        rotation = int(self._index.rotation[video])
        return self._pool.submit(ReadTask(path, frames, table, self._size, rotation))

    def result(self, ticket: int) -> NDArray[np.uint8] | TaskFailure:
        """Wait for a ticket: [F, h, w, 3], valid until `release`, or the reason of the failure."""
        frames: NDArray[np.uint8] | TaskFailure = self._pool.result(ticket)
        return frames

    def release(self, ticket: int) -> None:
        """Give the frames' memory back; a ticket that was not waited for is dropped."""
        self._pool.release(ticket)

    def close(self) -> None:
        """Stop the workers."""
        self._pool.close()


def available_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))
