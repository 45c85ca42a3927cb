"""Hundreds of batches, with workers killed among them, leave nothing behind.

Counted, not weighed: how many MiB a process holds depends on allocators and on how far ahead the
loader got, but maps of shared memory, file descriptors, threads and jobs can be counted.
"""

import gc
import os
import signal
import threading
from collections import Counter
from pathlib import Path

import pytest

from bench.parts.processes import process_tree
from fastdual.loaders.batch import assemble
from fastdual.loaders.batch.assemble import MOST_SHARED_BATCHES
from fastdual.loaders.batch.rows import Assembled, Chunk, Row
from fastdual.loaders.index import VideoIndex, build_index
from fastdual.loaders.loader import ClipLoader
from fastdual.loaders.plan import ClipPlan, ClipSpec
from fastdual.loaders.pool.cpus import available_cpus
from fastdual.loaders.pool.handle import Worker
from fastdual.loaders.pool.jobs import Job
from tests.loaders.clips import encode

SPEC = ClipSpec(frames_per_clip=4, frame_stride=2, resize_height=40, resize_width=57, crop_size=32)
BATCH, PREFETCH, WORKERS = 4, 1, 2
BATCHES, EVERY = 150, 25


@pytest.fixture
def index(tmp_path: Path) -> VideoIndex:
    """12 tiny videos, one of which cannot be decoded any more."""
    for number in range(12):
        encode(tmp_path / "videos" / f"{number:02}.mp4", 12, gop=4)
    index = build_index(tmp_path / "videos", tmp_path / "x.h5", num_workers=1)
    index.path(5).write_bytes(b"")
    return index


def held() -> Counter[str]:
    """What this process holds and the loader could lose."""
    gc.collect()
    kinds = (Job, Worker, Row, Chunk, Assembled, ClipPlan)
    counts = Counter(type(thing).__name__ for thing in gc.get_objects() if type(thing) in kinds)
    maps = Path("/proc/self/maps").read_text().splitlines()
    counts["shared maps"] = sum("memfd:fastdual" in line for line in maps)
    counts["descriptors"] = len(os.listdir("/proc/self/fd"))
    counts["threads"] = threading.active_count()
    counts["children"] = len(process_tree(os.getpid())) - 1
    return counts


def kill_a_worker() -> None:
    workers = sorted(set(process_tree(os.getpid())) - {os.getpid()})
    if workers:
        os.kill(workers[-1], signal.SIGKILL)


def test_batches_and_killed_workers_leave_nothing_behind(
    index: VideoIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assemble, "_MOST_BYTES_AHEAD", 0)  # or a GiB of these small rows
    options = {"batch_size": BATCH, "prefetch": PREFETCH, "num_workers": WORKERS, "seed": 1}
    with ClipLoader(index, SPEC, decode="pyav", **options) as warm_up:
        next(iter(warm_up))
    before, seen = held(), Counter[str]()
    with ClipLoader(index, SPEC, decode="pyav", **options) as loader:
        for number in range(BATCHES):
            next(iter(loader))
            if number % EVERY == EVERY - 1:
                seen |= held()  # the most of each kind
                kill_a_worker()
    # Twice the rows that are decoded ahead at any time, while those behind a killed worker wait;
    # the chunk that is started then, and the rest of a batch that was started.
    chunk = max(4, available_cpus())
    rows = 2 * (2 * WORKERS + chunk) + chunk + BATCH
    assert seen["Row"] <= rows
    assert seen["Job"] <= rows + WORKERS
    assert seen["Assembled"] <= rows // BATCH + PREFETCH + 4
    assert seen["shared maps"] <= MOST_SHARED_BATCHES + 2  # and of the loader before
    assert seen["Worker"] <= 2 * WORKERS
    assert seen["descriptors"] - before["descriptors"] <= 2 * seen["shared maps"] + 8 * WORKERS
    assert seen["threads"] - before["threads"] <= 8
    # Each worker and, for a moment, the dead one that it stands in for.
    assert seen["children"] - before["children"] <= 2 * WORKERS
    assert held() - before == Counter()  # the loader is closed, and still there
