"""A set of small videos in two codecs, and the first batches that a loader makes of it."""

import contextlib
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from fastdual.errors import FailureError
from fastdual.loaders.batch.reader import ReadTask
from fastdual.loaders.batch.worker import run_task
from fastdual.loaders.index import VideoIndex
from fastdual.loaders.loader import ClipBatch, ClipLoader
from fastdual.loaders.order import EpochOrder
from fastdual.loaders.plan import ClipSpec
from tests.loaders.clips import encode

NUM_VIDEOS = 13
SPEC = ClipSpec(frames_per_clip=4, frame_stride=3, resize_height=40, resize_width=57, crop_size=32)
EVALUATE = ClipSpec(
    mode="evaluate",
    frames_per_clip=4,
    resize_height=40,
    resize_width=57,
    crop_size=32,
    clips_per_video=3,
)


def write_videos(folder: Path) -> None:
    """13 videos in 2 classes, H.264 and VP9, of different lengths."""
    for number in range(NUM_VIDEOS):
        codec, suffix = (("libvpx-vp9", "webm"), ("libx264", "mp4"))[number % 2]
        path = folder / f"class{number % 3 == 0:d}" / f"v{number:02}.{suffix}"
        encode(path, 10 + number, codec=codec, gop=6)


def load(index: VideoIndex, count: int, **options: Any) -> list[ClipBatch]:
    """The first batches of a loader, over epoch borders."""
    options = {"batch_size": 4, "num_workers": 1, "seed": 3, **options}
    spec = options.pop("spec", SPEC)
    state = options.pop("state", None)
    with ClipLoader(index, spec, **options) as loader:
        if state is not None:
            loader.load_state_dict(state)
        batches: list[ClipBatch] = []
        while len(batches) < count:
            batches.extend(islice(loader, count - len(batches)))
    return batches


def run_task_late(task: ReadTask, out: NDArray[Any]) -> None:
    """As `batch.worker.run_task`; the first task waits until a number of others are done.

    The number, and the seconds after which the video fails, stand in the file `first` beside the
    folder of the videos; there, `done` gets a letter for each task.
    """
    folder = Path(str(task.source.path)).parents[2]
    done = folder / "done"
    with contextlib.suppress(FileNotFoundError):
        others, seconds = map(int, (folder / "first").read_text().split())
        (folder / "first").unlink()
        end = time.monotonic() + seconds
        while not done.exists() or done.stat().st_size < others:
            if time.monotonic() > end:
                raise FailureError("others were not decoded meanwhile")
            time.sleep(0.01)
    run_task(task, out)
    with done.open("a") as file:
        file.write("x")


def break_file(index: VideoIndex, video: int) -> None:
    path = index.path(video)
    path.write_bytes(path.read_bytes()[:300])


def order_of(index: VideoIndex, epoch: int = 0) -> list[int]:
    """The epoch's order for batches of 4 and seed 3."""
    order = EpochOrder(len(index), global_batch_size=4, seed=3)
    return order.at(epoch, 0, len(index)).tolist()


def join(batches: list[ClipBatch]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        torch.cat([b.clips for b in batches]),
        torch.cat([b.permutation for b in batches]),
        torch.cat([b.video_ids for b in batches]),
        torch.cat([b.labels for b in batches]),
    )


def assert_same(ours: list[ClipBatch], theirs: list[ClipBatch]) -> None:
    for one, other in zip(join(ours), join(theirs), strict=True):
        assert torch.equal(one, other)
