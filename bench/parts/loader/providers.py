"""Who takes part in bench.loader: each yields batches without end, or work that bounds them."""

import importlib.util
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from bench.parts.loader import rivals
from fastdual.loaders.batch.decoder import Requested
from fastdual.loaders.batch.reader import AugmentTask, ReadTask, unique_frames
from fastdual.loaders.index.open import VideoIndex
from fastdual.loaders.loader import ClipLoader
from fastdual.loaders.order import EpochOrder
from fastdual.loaders.plan import ClipSpec, draw_plan
from fastdual.loaders.pool import ProcessPool, TaskFailure

Ints = NDArray[np.int64]
Kind = Literal["ours", "rival", "limit", "control"]

_MOST_BATCHES = 1 << 16  # no rival gets through so many


@dataclass(frozen=True)
class Job:
    """What one process measures; paths of the prepared data, see `bench.parts.loader.data`.

    It warms up for `warmup` batches and a third of `seconds` at least, and is timed for `batches`
    and `seconds` at least.
    """

    provider: str
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
class Provider:
    """A contestant: how it makes batches, what it reads and what it needs."""

    name: str
    kind: Kind
    make: Make
    reads: str = "videos"
    package: str = ""
    needs_gpu: bool = False

    def missing(self, has_gpu: bool) -> str:
        """Why it cannot take part here; "" if it can."""
        if self.needs_gpu and not has_gpu:
            return "missing: needs a CUDA device"
        if self.package and importlib.util.find_spec(self.package) is None:
            return f"missing: {self.package} is not installed (requirements/rivals.txt)"
        return ""


def open_data(job: Job, reads: str) -> VideoIndex:
    """The index or pack that a provider reads."""
    return VideoIndex.load(Path(job.folder) / f"{reads}.h5")


def ours(reads: str, decode: Requested, device: str = "cpu") -> Make:
    """Our loader on raw or packed data."""

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


def rival(decode: rivals.Decode, *, threads: bool = False, jpeg: bool = False) -> Make:
    """A decoder of others, under torch's DataLoader or (CUDA) in threads."""

    def make(job: Job) -> Iterator[Any]:
        folder = Path(job.folder) / "jpeg" if jpeg else None
        dataset = rivals.VideoDataset(
            open_data(job, "videos"),
            ClipSpec(),
            decode,
            batch_size=job.batch_size,
            num_batches=_MOST_BATCHES,
            seed=job.seed,
            frames_folder=folder,
        )
        feed = rivals.under_threads if threads else rivals.under_dataloader
        return feed(dataset, num_workers=job.num_workers)

    return make


def plans(job: Job, index: VideoIndex) -> Iterator[tuple[int, Ints, AugmentTask]]:
    """(video, wanted frames, views) as the loader would make them, in its order, for ever."""
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
    """The frames that the loader would want."""
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
    """A limit: all cores do a part of the loader's work and drop what they made."""

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


PROVIDERS = {
    provider.name: provider
    for provider in (
        Provider("ours, pyav, raw", "ours", ours("videos", "pyav")),
        Provider("ours, pyav, pack", "ours", ours("pack", "pyav"), "pack"),
        Provider("ours, pyav, pack 128 px h264", "ours", ours("h264", "pyav"), "h264"),
        Provider("ours, dali-cpu, pack 128 px mjpeg", "ours", ours("mjpeg", "dali-cpu"), "mjpeg"),
        Provider("ours, nvdec, raw", "ours", ours("videos", "nvdec", "cuda"), needs_gpu=True),
        Provider("ours, nvdec, pack 128 px h264", "ours", ours("h264", "nvdec", "cuda"), "h264",
                 needs_gpu=True),
        Provider("torchcodec", "rival", rival(rivals.decode_torchcodec), package="torchcodec"),
        Provider("torchcodec, approximate", "rival", rival(rivals.decode_torchcodec_approximate),
                 package="torchcodec"),
        Provider("decord", "rival", rival(rivals.decode_decord), package="decord"),
        Provider("PyAV", "rival", rival(rivals.decode_pyav), package="av"),
        Provider("JPEG frames, PIL", "rival", rival(rivals.decode_jpeg, jpeg=True), "jpeg",
                 package="PIL"),
        Provider("torchcodec, NVDEC", "rival", rival(rivals.decode_torchcodec_cuda, threads=True),
                 package="torchcodec", needs_gpu=True),
        Provider("PyNvVideoCodec", "rival", rival(rivals.decode_pynvvideocodec, threads=True),
                 package="PyNvVideoCodec", needs_gpu=True),
        Provider("bare decode", "limit", bare("videos", "decode_only")),
        Provider("bare decode, pack 128 px h264", "limit", bare("h264", "decode_only"), "h264"),
        Provider("bare augmentation", "limit", bare("videos", "augment_only")),
        Provider("one frame late", "control", rival(rivals.decode_one_frame_late)),
        Provider("one frame early", "control", rival(rivals.decode_one_frame_early)),
    )
}  # fmt: skip
