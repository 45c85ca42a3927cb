"""One measurement of bench.loader in a process of its own: `python -m bench.parts.loader.run JOB`.

CPU time and memory are those of the process and everything it started. The clock of the first batch
starts with the contestant, that of the rate after `warmup` batches, and after enough time that a
fast contestant reuses its memory.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from bench.parts.loader.contestants import CONTESTANTS, Job
from bench.parts.processes import memory_mib, process_tree

_SAMPLE_SECONDS = 0.5


class PeakMemory(threading.Thread):
    """Watches the memory of this process and its descendants until it is stopped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak_mib, self._stopping = 0.0, threading.Event()

    def run(self) -> None:
        while True:
            self.peak_mib = max(self.peak_mib, memory_mib(process_tree(os.getpid())))
            if self._stopping.wait(_SAMPLE_SECONDS):
                return

    def stop(self) -> float:
        self._stopping.set()
        self.join()
        return self.peak_mib


def take(batches: Iterator[Any], count: int, seconds: float) -> int:
    """Take at least `count` batches for at least so many seconds; return how many were taken."""
    taken, end = 0, time.perf_counter() + seconds
    while taken < count or time.perf_counter() < end:
        next(batches)
        taken += 1
    return taken


def measure(job: Job) -> dict[str, Any]:
    """Run one contestant: warm it up, time it, and store its first batch if the job asks for it.

    Memory is read before the clock starts and after it stops, because reading takes time.

    Returns:
        The figures of one turn, by name.
    """
    watch = PeakMemory()
    watch.start()
    started = time.perf_counter()
    batches: Any = CONTESTANTS[job.contestant].batches(job)
    first = next(batches)
    first_seconds = time.perf_counter() - started
    if job.dump:
        np.save(job.dump, first.cpu().to(torch.float32).numpy())
    del first
    take(batches, job.warmup - 1, job.seconds / 3)
    peak_mib = watch.stop()
    idle = getattr(batches, "idle_seconds", None)
    cpu, clock = sum(process_tree(os.getpid()).values()), time.perf_counter()
    count = take(batches, job.batches, job.seconds)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds = time.perf_counter() - clock
    cpu_seconds = sum(process_tree(os.getpid()).values()) - cpu
    peak_mib = max(peak_mib, memory_mib(process_tree(os.getpid())))
    videos = count * job.batch_size
    if idle is not None:
        idle = (batches.idle_seconds - idle) / (job.num_workers * seconds)
    device_mib = torch.cuda.max_memory_reserved() / 2**20 if torch.cuda.is_available() else 0.0
    return {
        "videos_per_second": videos / seconds if videos else 0.0,
        "cpu_ms_per_video": 1e3 * cpu_seconds / videos if videos else 0.0,
        "first_batch_seconds": first_seconds,
        "peak_mib": peak_mib,
        "peak_device_mib": device_mib,
        "idle_share": idle,
    }


def main() -> None:
    torch.set_num_threads(1)  # of this process: workers are the parallelism of every contestant
    print(json.dumps(measure(Job(**json.loads(sys.argv[1])))), flush=True)
    os._exit(0)  # workers of other libraries may wait for a batch that nobody fetches


if __name__ == "__main__":
    main()
