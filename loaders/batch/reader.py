"""Where pictures come from: which decoder serves which file, and the PyAV path's worker task.

Frame i is the same picture in every backend (`decode.video` numbers frames by a full decode).
`nvdec` and `dali-cpu` decode encoded bytes inside the DALI graph; `pyav` decodes and scales in
worker processes, which augment as well for a CPU, and feed the graph with frames for a GPU. A file
that DALI cannot decode, or numbers differently, goes through PyAV whatever the backend, for a
reason that is stated.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fastdual.errors import InputError
from fastdual.loaders.decode.encoded import Encoded
from fastdual.loaders.decode.keyframes import Keyframes
from fastdual.loaders.index.table import VideoIndex
from fastdual.loaders.plan import ClipPlan, ClipSpec
from fastdual.loaders.pool.channel import Deferred, SharedMemory
from fastdual.loaders.pool.pool import ProcessPool, TaskFailure
from fastdual.loaders.views.augment import augment

Ints = NDArray[np.int64]
Backend = Literal["nvdec", "dali-cpu", "pyav"]
Requested = Literal["auto", "nvdec", "dali-cpu", "pyav"]

READ_TASK = "fastdual.loaders.batch.reader:read_task"
_DALI_CPU_CODECS = {"vp8", "vp9", "mjpeg"}
_NVDEC_SESSIONS = 16
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


def graph_threads(backend: Backend, num_cpus: int) -> int:
    """DALI's threads: half the CPUs, but with NVDEC enough to keep all engines busy.

    DALI gives each sample a decoding session on one of its threads, a session uses one engine, and
    most of the time the thread waits for it. The largest chips have seven or eight engines.
    """
    half = max(1, num_cpus // 2)
    return max(half, _NVDEC_SESSIONS) if backend == "nvdec" else half


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


# Weights of red and blue in luma, by libav's number of the matrix: BT.709 and BT.2020.
_LUMA_WEIGHTS = {1: (0.2126, 0.0722), 9: (0.2627, 0.0593)}
_BT601_MATRICES = {2, 5, 6}  # 2 is "not stated"
_BT601_WEIGHTS = (0.299, 0.114)


def colour_matrix(colour_space: int) -> NDArray[np.float64] | None:
    """What maps the RGB that DALI makes to the right one; None where that cannot be mended.

    DALI takes every video's matrix for BT.601 (the range it does read). For a file that states
    another, its conversion is undone and the right one done: one 3x3 matrix.
    """
    if colour_space in _BT601_MATRICES:
        return np.eye(3)
    if colour_space not in _LUMA_WEIGHTS:
        return None
    from_rgb = _rgb_to_yuv(*_LUMA_WEIGHTS[colour_space])
    mended: NDArray[np.float64] = np.linalg.inv(from_rgb) @ _rgb_to_yuv(*_BT601_WEIGHTS)
    return mended


def _rgb_to_yuv(red: float, blue: float) -> NDArray[np.float64]:
    luma = np.array([red, 1 - red - blue, blue])
    to_blue = (np.array([0, 0, 1]) - luma) / (2 * (1 - blue))
    to_red = (np.array([1, 0, 0]) - luma) / (2 * (1 - red))
    return np.stack([luma, to_blue, to_red])


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


def available_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))
