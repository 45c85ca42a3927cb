"""What a soak saw, and whether memory grew in it.

Memory is the anonymous and shared memory of the main process, and that of all workers together.
Processes share the cost of a page. The pages of libraries do not count: a process's part of them
grows when another program that uses them ends. The workers are judged only with --no-attacks, when
they live as long as the run. The first third of a run is warm-up: allocators fill, and up to five
batches are in flight, of 77 MiB each unless --tiny. Judged is the median of the last third against
that of the middle third: they may differ by one batch, and by at least 16 MiB. Only a run of ten
minutes or 2,000 batches is judged; a shorter one just reports its slope.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bench.parts.processes import memory_mib, process_tree

_MIN_SECONDS_JUDGED, _MIN_BATCHES_JUDGED = 600.0, 2000
_OWN = ("Pss_Anon:", "Pss_Shmem:")
_MIN_GROWTH_MIB, _SAMPLE_SECONDS = 16.0, 0.2


@dataclass
class Report:
    """What a soak saw; `problems` is empty if all went well."""

    batches: int = 0
    seconds: float = 0.0
    attacks: dict[str, int] = field(default_factory=dict)
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
    """Memory in MiB, each sample with the seconds and batches since the start."""

    seconds: list[float] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    main: list[float] = field(default_factory=list)
    workers: list[float] = field(default_factory=list)

    def add(self, seconds: float, batches: int) -> None:
        if self.seconds and seconds < self.seconds[-1] + _SAMPLE_SECONDS:
            return  # reading memory takes time
        self.seconds.append(seconds)
        self.batches.append(batches)
        self.main.append(memory_mib([os.getpid()], _OWN))
        self.workers.append(memory_mib(workers_of_this_process(), _OWN))


def workers_of_this_process() -> list[int]:
    """Return the process ids of all descendants of this process."""
    return sorted(set(process_tree(os.getpid())) - {os.getpid()})


def judge_memory(report: Report, samples: Samples, batch_mib: float) -> None:
    """Set the report's growth from the middle third to the last, and the slope over both.

    Args:
        report: The report to fill; growth beyond the limit becomes a problem.
        samples: All samples of the run.
        batch_mib: Memory of one batch, in MiB.
    """
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
    if report.memory_judged and not report.attacks and report.workers_growth_mib > limit:
        report.problems.append(f"memory of the workers grew by {report.workers_growth_mib:.0f} MiB")


def _growth(mib: list[float]) -> float:
    third = len(mib) // 3
    return round(float(np.median(mib[-third:]) - np.median(mib[third:-third])), 1)


def _slope(at: Sequence[float], mib: list[float], scale: int = 1) -> float:
    third = len(mib) // 3
    slope = np.polyfit(at[third:], np.array(mib[third:]) * scale, 1)[0]
    return round(float(slope), 2)
