"""The contestants of bench.loader: endless batches, or endless work that bounds them."""

import importlib.util
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from bench.parts.loader import decoders
from bench.parts.loader.dataset import SEED, VideoDataset, under_dataloader, under_threads
from bench.parts.loader.decoders import Decode, Ints
from fastdual.loaders.batch.decoder import Requested
from fastdual.loaders.batch.reader import AugmentTask, ReadTask, unique_frames
from fastdual.loaders.index import VideoIndex, load_index
from fastdual.loaders.loader import ClipLoader
from fastdual.loaders.order import EpochOrder
from fastdual.loaders.plan import ClipSpec, draw_plan
from fastdual.loaders.pool import ProcessPool, TaskFailure

_MOST_BATCHES = 1 << 16  # more than any contestant gets through


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one process measures.

    Attributes:
        contestant: Its name.
        folder: Where the prepared data are, see `bench.parts.loader.data`.
        batch_size: Videos per batch.
        num_workers: Worker processes, or threads.
        warmup: Untimed batches at least; the warm-up also takes at least a third of `seconds`.
        batches: Timed batches at least.
        seconds: Timed seconds at least.
        dump: Where the first batch is stored; "" for nowhere.
    """

    contestant: str
    folder: str
    batch_size: int
    num_workers: int
    warmup: int
    batches: int
    seconds: float = 0.0
    dump: str = ""


@dataclass(frozen=True)
class Contestant:
    """How a contestant makes batches from (index, job), what it reads and what it needs."""

    name: str
    kind: Literal["ours", "theirs", "limit", "control"]
    make: Callable[[VideoIndex, Job], Iterator[Any]]
    reads: str = "videos"
    package: str = ""
    needs_gpu: bool = False

    def batches(self, job: Job) -> Iterator[Any]:
        """Return its batches, without end."""
        name = "videos" if self.reads == "jpeg" else self.reads
        return self.make(load_index(Path(job.folder) / f"{name}.h5"), job)

    def missing(self, has_gpu: bool) -> str:
        """Return why it cannot take part here; "" if it can."""
        if self.needs_gpu and not has_gpu:
            return "missing: needs a CUDA device"
        if self.package and importlib.util.find_spec(self.package) is None:
            return f"missing: {self.package} is not installed (requirements/loader-contestants.txt)"
        return ""


class Ours(Iterator[Any]):
    """The clips of our loader."""

    def __init__(
        self, index: VideoIndex, job: Job, *, decode: Requested, device: str = "cpu"
    ) -> None:
        self._loader = ClipLoader(
            index,
            ClipSpec(),
            batch_size=job.batch_size,
            seed=SEED,
            decode=decode,
            device=device,
            num_workers=job.num_workers,
        )
        self._batches = (batch for _ in itertools.count() for batch in self._loader)

    def __next__(self) -> Any:
        batch = next(self._batches)
        # A rate of PyAV's is never shown as one of NVDEC's.
        chosen = self._loader.decode_choice.decoder
        assert set(batch.decoders) == {chosen}, self._loader.decoded_by
        return batch.clips

    @property
    def idle_seconds(self) -> float:
        """Time that its workers have waited for a video, of all together."""
        return self._loader.worker_idle_seconds


def theirs(
    index: VideoIndex, job: Job, *, decode: Decode, threads: bool = False, jpeg: bool = False
) -> Iterator[Any]:
    """Return the clips of another library's decoder, under a DataLoader or in threads."""
    dataset = VideoDataset(
        index,
        ClipSpec(),
        decode,
        batch_size=job.batch_size,
        num_batches=_MOST_BATCHES,
        frames_folder=Path(job.folder) / "jpeg" if jpeg else None,
    )
    feed = under_threads if threads else under_dataloader
    return feed(dataset, num_workers=job.num_workers)


def plans(index: VideoIndex, job: Job) -> Iterator[tuple[int, Ints, AugmentTask]]:
    """Yield (video, wanted frames, views) as the loader does, in its order, without end."""
    spec = ClipSpec()
    order = EpochOrder(index.split(None), global_batch_size=job.batch_size, seed=SEED)
    for epoch in itertools.count():
        for step in range(order.batches_per_epoch):
            videos = order.batch(epoch, step)
            num_frames = index.num_frames[videos]
            plan = draw_plan(spec, seed=SEED, epoch=epoch, videos=videos, num_frames=num_frames)
            wanted, positions = unique_frames(index.places(videos, plan.frames))
            for row, video in enumerate(videos.tolist()):
                part = slice(row, row + 1)
                yield video, wanted[row], AugmentTask(spec, plan[part], positions[part])


def decode_tasks(index: VideoIndex, job: Job) -> Iterator[ReadTask]:
    """Yield the frames that the loader wants."""
    for video, wanted, views in plans(index, job):
        yield ReadTask(
            index.source(video),
            wanted,
            index.keyframes(video),
            (views.spec.resize_height, views.spec.resize_width),
            int(index.rotation[video]),
            int(index.num_frames[video]),
        )


def augment_tasks(index: VideoIndex, job: Job) -> Iterator[AugmentTask]:
    """Yield the views that the loader wants."""
    return (views for _, _, views in plans(index, job))


def bare(
    index: VideoIndex, job: Job, *, function: str, tasks: Callable[..., Iterator[Any]]
) -> Iterator[Any]:
    """Yield once per batch; all cores do one part of the loader's work and drop its results."""
    with ProcessPool(
        f"bench.parts.loader.limits:{function}", num_workers=job.num_workers, timeout_seconds=60
    ) as pool:
        results = pool.imap(tasks(index, job), window=2 * job.num_workers)
        while True:
            for _, result in itertools.islice(results, job.batch_size):
                if isinstance(result, TaskFailure):
                    raise RuntimeError(result.reason)
            yield torch.zeros(0)


_decode = partial(bare, function="decode_only", tasks=decode_tasks)
_augment = partial(bare, function="augment_only", tasks=augment_tasks)
_LISTED = (
    Contestant("ours, pyav, raw", "ours", partial(Ours, decode="pyav")),
    Contestant("ours, pyav, pack", "ours", partial(Ours, decode="pyav"), "pack"),
    Contestant("ours, pyav, pack 128 px h264", "ours", partial(Ours, decode="pyav"), "h264"),
    Contestant("ours, pyav, pack 128 px h264, shown order", "ours", partial(Ours, decode="pyav"),
               "shown order"),
    Contestant("ours, dali-cpu, pack 128 px mjpeg", "ours", partial(Ours, decode="dali-cpu"),
               "mjpeg"),
    Contestant("ours, nvdec, raw", "ours", partial(Ours, decode="nvdec", device="cuda"),
               needs_gpu=True),
    Contestant("ours, nvdec, pack 128 px h264", "ours",
               partial(Ours, decode="nvdec", device="cuda"), "h264", needs_gpu=True),
    Contestant("torchcodec", "theirs", partial(theirs, decode=decoders.torchcodec),
               package="torchcodec"),
    Contestant("torchcodec, approximate", "theirs",
               partial(theirs, decode=decoders.torchcodec_approximate), package="torchcodec"),
    Contestant("SPDL", "theirs", partial(theirs, decode=decoders.spdl, threads=True),
               package="spdl"),
    Contestant("decord2", "theirs", partial(theirs, decode=decoders.decord), package="decord"),
    Contestant("video-reader-rs", "theirs", partial(theirs, decode=decoders.video_reader),
               package="video_reader"),
    Contestant("PyAV", "theirs", partial(theirs, decode=decoders.pyav), package="av"),
    Contestant("JPEG frames, PIL", "theirs", partial(theirs, decode=decoders.jpeg, jpeg=True),
               "jpeg", package="PIL"),
    Contestant("torchcodec, NVDEC", "theirs",
               partial(theirs, decode=decoders.torchcodec_cuda, threads=True),
               package="torchcodec", needs_gpu=True),
    Contestant("PyNvVideoCodec", "theirs",
               partial(theirs, decode=decoders.pynvvideocodec, threads=True),
               package="PyNvVideoCodec", needs_gpu=True),
    Contestant("bare decode", "limit", _decode),
    Contestant("bare decode, pack 128 px h264", "limit", _decode, "h264"),
    Contestant("bare augmentation", "limit", _augment),
    Contestant("one frame late", "control", partial(theirs, decode=decoders.one_frame_late)),
    Contestant("one frame early", "control", partial(theirs, decode=decoders.one_frame_early)),
)  # fmt: skip
CONTESTANTS = {contestant.name: contestant for contestant in _LISTED}
