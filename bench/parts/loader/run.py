"""One measurement of bench.loader in a process of its own: `python -m bench.parts.loader.run JOB`.

CPU time and memory are those of the process and everything it started. The clock starts when a
provider is set to work, and for the rate when `warmup` batches have come and long enough has passed
that a fast one has come round to memory that was used before.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.parts.loader.providers import PROVIDERS, Job

_SAMPLE_SECONDS = 0.5
_TICKS = os.sysconf("SC_CLK_TCK")


def process_tree(root: int) -> dict[int, float]:
    """CPU seconds of a process and of all it started, ended children included, by process id."""
    parents, seconds = {}, {}
    for entry in os.listdir("/proc"):
        try:
            fields = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
        except (OSError, ValueError):
            continue  # not a process, or one that has just ended
        if entry.isdigit():
            parents[int(entry)] = int(fields[1])
            seconds[int(entry)] = sum(map(int, fields[11:15])) / _TICKS
    family, found = {root}, True
    while found:
        found = {pid for pid, parent in parents.items() if parent in family} - family
        family |= found
    return {pid: seconds[pid] for pid in family if pid in seconds}


def memory_mib(pids: list[int]) -> float:
    """Host memory of processes; a shared page counts once (proportional set size)."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


class PeakMemory(threading.Thread):
    """Watches the memory of this process and its children until it is stopped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak_mib, self._stopping = 0.0, threading.Event()

    def run(self) -> None:
        while True:
            self.peak_mib = max(self.peak_mib, memory_mib(list(process_tree(os.getpid()))))
            if self._stopping.wait(_SAMPLE_SECONDS):
                return

    def stop(self) -> float:
        self._stopping.set()
        self.join()
        return self.peak_mib


def take(batches: Iterator[Any], count: int, seconds: float) -> int:
    """Take batches until there are `count` and the seconds have passed; returns how many."""
    taken, end = 0, time.perf_counter() + seconds
    while taken < count or time.perf_counter() < end:
        next(batches)
        taken += 1
    return taken


def measure(job: Job) -> dict[str, Any]:
    """Run one provider: warm up, time it, and keep the first batch if that is asked.

    Memory is looked at before the clock starts and after it stops, for looking takes time.
    """
    watch = PeakMemory()
    watch.start()
    started = time.perf_counter()
    batches = PROVIDERS[job.provider].make(job)
    first = next(batches)
    first_seconds = time.perf_counter() - started
    if job.dump:
        np.save(job.dump, first.cpu().to(torch.float32).numpy())
    del first
    take(batches, job.warmup - 1, job.seconds / 3)
    peak_mib = watch.stop()
    cpu, clock = sum(process_tree(os.getpid()).values()), time.perf_counter()
    count = take(batches, job.batches, job.seconds)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds = time.perf_counter() - clock
    cpu_seconds = sum(process_tree(os.getpid()).values()) - cpu
    peak_mib = max(peak_mib, memory_mib(list(process_tree(os.getpid()))))
    videos = count * job.batch_size
    device_mib = torch.cuda.max_memory_reserved() / 2**20 if torch.cuda.is_available() else 0.0
    return {
        "videos_per_second": videos / seconds if videos else 0.0,
        "cpu_ms_per_video": 1e3 * cpu_seconds / videos if videos else 0.0,
        "first_batch_seconds": first_seconds,
        "peak_mib": peak_mib,
        "peak_device_mib": device_mib,
    }


def main() -> None:
    torch.set_num_threads(1)  # of this process; workers are the parallelism of every contestant
    print(json.dumps(measure(Job(**json.loads(sys.argv[1])))), flush=True)
    os._exit(0)  # a rival's workers may wait for a batch that nobody fetches


if __name__ == "__main__":
    main()
