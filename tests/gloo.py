"""Processes of a test that talk over gloo: they meet, they leave together, and they end at once."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import distributed as dist

from fastdual.distributed.ending import end_process


@contextmanager
def gloo_process(rank: int, num_processes: int, folder: Path) -> Iterator[None]:
    """Join the default group of a test, on one thread; at the end of the block the process ends.

    gloo aborts a process whose peer leaves while it still talks, and a barrier is talk as well. So
    whoever is done says so with a file, and leaves when all have.

    Args:
        rank: Number of this process.
        num_processes: How many take part.
        folder: Of this test alone.
    """
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=num_processes
    )
    yield
    (folder / f"{rank}.left").touch()
    deadline = time.monotonic() + 60
    while len(list(folder.glob("*.left"))) < num_processes and time.monotonic() < deadline:
        time.sleep(0.01)
    dist.destroy_process_group()
    end_process()
