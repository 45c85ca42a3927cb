"""The contestants of bench.loader: endless batches, or endless work that bounds them."""

import importlib.util
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from bench.parts.loader import decoders
from bench.parts.loader.dataset import Decode, VideoDataset, under_dataloader, under_threads
from fastdual.loaders.batch.decoder import Requested
from fastdual.loaders.batch.reader import AugmentTask, ReadTask, unique_frames
from fastdual.loaders.index import VideoIndex, load_index
from fastdual.loaders.loader import ClipLoader
from fastdual.loaders.order import EpochOrder
from fastdual.loaders.plan import ClipSpec, draw_plan
from fastdual.loaders.pool import ProcessPool, TaskFailure

Ints = NDArray[np.int64]
Kind = Literal["ours", "theirs", "limit", "control"]

_MOST_BATCHES = 1 << 16  # more than any contestant gets through


@dataclass(frozen=True)
class Job:
    """What one process measures.

    Attributes:
        contestant: Its name.
        folder: Where the prepared data are, see `bench.parts.loader.data`.
        batch_size: Videos per batch.
        warmup: Untimed batches at least; the warm-up also takes at least a third of `seconds`.
        batches: Timed batches at least.
        num_workers: Worker processes, or threads.
        seconds: Timed seconds at least.
        seed: Of order and plan.
        dump: Where the first batch is stored; "" for nowhere.
    """

    contestant: str
    folder: str
    batch_size: int
    warmup: int
    batches: int
    num_workers: int
    seconds: float = 0.0
    seed: int = 0
    dump: str = ""


Make = Callable[[Job], Iterator[Any]]


@dataclass(frozen=True)
class Contestant:
    """How a contestant makes batches, what it reads and what it needs."""

    name: str
    kind: Kind
    make: Make
    reads: str = "videos"
    package: str = ""
    needs_gpu: bool = False

    def missing(self, has_gpu: bool) -> str:
        """Return why it cannot take part here; "" if it can."""
        if self.needs_gpu and not has_gpu:
            return "missing: needs a CUDA device"
        if self.package and importlib.util.find_spec(self.package) is None:
            return f"missing: {self.package} is not installed (requirements/loader-contestants.txt)"
        return ""


def open_data(job: Job, reads: str) -> VideoIndex:
    """Return the index or pack that a contestant reads."""
    return load_index(Path(job.folder) / f"{reads}.h5")


def ours(reads: str, decode: Requested, device: str = "cpu") -> Make:
    """Return our loader on raw or packed data."""

    def make(job: Job) -> Iterator[Any]:
        with ClipLoader(
            open_data(job, reads),
            ClipSpec(),
            batch_size=job.batch_size,
            seed=job.seed,
            decode=decode,
            device=device,
            num_workers=job.num_workers,
        ) as loader:
            while True:
                for batch in loader:
                    yield batch.clips

    return make


def theirs(decode: Decode, *, threads: bool = False, jpeg: bool = False) -> Make:
    """Return a decoder of another library, under torch's DataLoader or (CUDA) in threads."""

    def make(job: Job) -> Iterator[Any]:
        folder = Path(job.folder) / "jpeg" if jpeg else None
        dataset = VideoDataset(
            open_data(job, "videos"),
            ClipSpec(),
            decode,
            batch_size=job.batch_size,
            num_batches=_MOST_BATCHES,
            seed=job.seed,
            frames_folder=folder,
        )
        feed = under_threads if threads else under_dataloader
        return feed(dataset, num_workers=job.num_workers)

    return make


def plans(job: Job, index: VideoIndex) -> Iterator[tuple[int, Ints, AugmentTask]]:
    """Yield (video, wanted frames, views) as the loader does, in its order, without end."""
    spec = ClipSpec()
    order = EpochOrder(index.split(None), global_batch_size=job.batch_size, seed=job.seed)
    for epoch in itertools.count():
        for step in range(order.batches_per_epoch):
            videos = order.batch(epoch, step)
            plan = draw_plan(
                spec,
                seed=job.seed,
                epoch=epoch,
                videos=videos,
                num_frames=index.num_frames[videos],
            )
            wanted, places = unique_frames(plan)
            for row, video in enumerate(videos.tolist()):
                part = slice(row, row + 1)
                yield video, wanted[row], AugmentTask(spec, plan[part], places[part])


def read_tasks(job: Job, index: VideoIndex) -> Iterator[ReadTask]:
    """Yield the frames that the loader wants."""
    for video, wanted, views in plans(job, index):
        yield ReadTask(
            index.source(video),
            wanted,
            index.keyframes(video),
            (views.spec.resize_height, views.spec.resize_width),
            int(index.rotation[video]),
            int(index.num_frames[video]),
        )


def bare(reads: str, function: str) -> Make:
    """Return a limit: all cores do one part of the loader's work and drop its results."""

    def make(job: Job) -> Iterator[Any]:
        index = open_data(job, reads)
        tasks: Iterator[Any] = read_tasks(job, index)
        if function == "augment_only":
            tasks = (views for _, _, views in plans(job, index))
        with ProcessPool(
            f"bench.parts.loader.limits:{function}", num_workers=job.num_workers, timeout_seconds=60
        ) as pool:
            results = pool.imap(tasks, window=2 * job.num_workers)
            while True:
                done = [result for _, result in itertools.islice(results, job.batch_size)]
                failed = next((r for r in done if isinstance(r, TaskFailure)), None)
                if failed is not None:
                    raise RuntimeError(failed.reason)
                yield torch.zeros(0)

    return make


CONTESTANTS = {
    contestant.name: contestant
    for contestant in (
        Contestant("ours, pyav, raw", "ours", ours("videos", "pyav")),
        Contestant("ours, pyav, pack", "ours", ours("pack", "pyav"), "pack"),
        Contestant("ours, pyav, pack 128 px h264", "ours", ours("h264", "pyav"), "h264"),
        Contestant("ours, dali-cpu, pack 128 px mjpeg", "ours", ours("mjpeg", "dali-cpu"), "mjpeg"),
        Contestant("ours, nvdec, raw", "ours", ours("videos", "nvdec", "cuda"), needs_gpu=True),
        Contestant("ours, nvdec, pack 128 px h264", "ours", ours("h264", "nvdec", "cuda"), "h264",
                   needs_gpu=True),
        Contestant("torchcodec", "theirs", theirs(decoders.torchcodec), package="torchcodec"),
        Contestant("torchcodec, approximate", "theirs", theirs(decoders.torchcodec_approximate),
                   package="torchcodec"),
        Contestant("decord", "theirs", theirs(decoders.decord), package="decord"),
        Contestant("PyAV", "theirs", theirs(decoders.pyav), package="av"),
        Contestant("JPEG frames, PIL", "theirs", theirs(decoders.jpeg, jpeg=True), "jpeg",
                   package="PIL"),
        Contestant("torchcodec, NVDEC", "theirs", theirs(decoders.torchcodec_cuda, threads=True),
                   package="torchcodec", needs_gpu=True),
        Contestant("PyNvVideoCodec", "theirs", theirs(decoders.pynvvideocodec, threads=True),
                   package="PyNvVideoCodec", needs_gpu=True),
        Contestant("bare decode", "limit", bare("videos", "decode_only")),
        Contestant("bare decode, pack 128 px h264", "limit", bare("h264", "decode_only"), "h264"),
        Contestant("bare augmentation", "limit", bare("videos", "augment_only")),
        Contestant("one frame late", "control", theirs(decoders.one_frame_late)),
        Contestant("one frame early", "control", theirs(decoders.one_frame_early)),
    )
}  # fmt: skip
