"""What a soak saw, and whether memory grew in it.

Memory is anonymous and shared memory, a shared page counted in parts, without the pages of
libraries: of those a process counts more whenever another program that uses them ends. It is that
of the main process, and of all workers together; theirs is judged only with --no-kills, where they
live as long as the run. In the first third of a run it warms up: allocators fill, and up to five
batches come under way, of 77 MiB each unless --tiny. What is judged is the median of the last third
against that of the middle one. They may differ by a batch, at least by 16 MiB, and only a run of
ten minutes or 2,000 batches is judged; a shorter one just reports its slope.
"""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.parts.processes import process_tree

_MIN_SECONDS_JUDGED, _MIN_BATCHES_JUDGED = 600.0, 2000
_MIN_GROWTH_MIB, _SAMPLE_SECONDS = 16.0, 0.2


@dataclass
class Report:
    """What a soak saw; `problems` is empty if all went well."""

    batches: int = 0
    seconds: float = 0.0
    kills: int = 0
    peak_mib: float = 0.0
    memory_judged: bool = False
    growth_mib: float = 0.0
    slope_mib_per_minute: float = 0.0
    slope_kib_per_batch: float = 0.0
    workers_peak_mib: float = 0.0
    workers_growth_mib: float = 0.0
    workers_slope_kib_per_batch: float = 0.0
    quarantined: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass
class Samples:
    """Memory in MiB after so many seconds and batches."""

    seconds: list[float] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    main: list[float] = field(default_factory=list)
    workers: list[float] = field(default_factory=list)

    def add(self, seconds: float, batches: int) -> None:
        if self.seconds and seconds < self.seconds[-1] + _SAMPLE_SECONDS:
            return  # it takes a while itself
        self.seconds.append(seconds)
        self.batches.append(batches)
        self.main.append(_own_mib([os.getpid()]))
        self.workers.append(_own_mib(workers_of_this_process()))


def workers_of_this_process() -> list[int]:
    return sorted(set(process_tree(os.getpid())) - {os.getpid()})


def _own_mib(pids: list[int]) -> float:
    kib = 0
    for pid in pids:
        with contextlib.suppress(OSError):  # it has just ended
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                    kib += int(line.split()[1])
    return kib / 1024


def judge_memory(report: Report, samples: Samples, batch_mib: float) -> None:
    """Growth from the middle third to the last, and the slope of a line through both."""
    report.peak_mib = round(max(samples.main), 1)
    report.workers_peak_mib = round(max(samples.workers), 1)
    third = len(samples.main) // 3
    if third < 2:
        return
    report.growth_mib = _growth(samples.main)
    report.workers_growth_mib = _growth(samples.workers)
    minutes = [seconds / 60 for seconds in samples.seconds]
    report.slope_mib_per_minute = _slope(minutes, samples.main)
    report.slope_kib_per_batch = _slope(samples.batches, samples.main, 1024)
    report.workers_slope_kib_per_batch = _slope(samples.batches, samples.workers, 1024)
    is_long = samples.seconds[-1] >= _MIN_SECONDS_JUDGED
    report.memory_judged = is_long or samples.batches[-1] >= _MIN_BATCHES_JUDGED
    limit = max(_MIN_GROWTH_MIB, batch_mib)
    if report.memory_judged and report.growth_mib > limit:
        report.problems.append(f"memory grew by {report.growth_mib:.0f} MiB")
    if report.memory_judged and not report.kills and report.workers_growth_mib > limit:
        report.problems.append(f"memory of the workers grew by {report.workers_growth_mib:.0f} MiB")


def _growth(mib: list[float]) -> float:
    third = len(mib) // 3
    return round(float(np.median(mib[-third:]) - np.median(mib[third:-third])), 1)


def _slope(places: Sequence[float], mib: list[float], scale: int = 1) -> float:
    third = len(mib) // 3
    slope = np.polyfit(places[third:], np.array(mib[third:]) * scale, 1)[0]
    return round(float(slope), 2)
