"""How many CPUs this process may use: those it is bound to, or what its container is granted."""

import math
import os
from collections.abc import Iterator
from pathlib import Path


def available_cpus(num_processes: int = 1) -> int:
    """Return the number of CPUs for each of the processes that share those of this one.

    A container often sees all CPUs of its machine and is granted the time of a few.
    """
    bound = float(len(os.sched_getaffinity(0)))
    quota = cpu_quota(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    return max(1, math.ceil(min(bound, quota)) // num_processes)


def cpu_quota(own: Path, mount: Path) -> float:
    """Return the CPUs whose time the control groups of a process grant it; inf without a limit.

    Args:
        own: The process's groups, as /proc/self/cgroup.
        mount: Where control groups are mounted, of version 1 or 2.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return math.inf
    quotas = [math.inf]
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if not controllers:
            quotas += [_quota_v2(folder) for folder in _up_from(mount, group)]
        elif "cpu" in controllers.split(","):
            for name in (controllers, "cpu"):
                quotas += [_quota_v1(folder) for folder in _up_from(mount / name, group)]
    return min(quotas)


def _up_from(mount: Path, group: str) -> Iterator[Path]:
    """Yield the folders of a group and of those above it; inside a container it may be the root."""
    folder = mount / group.strip("/")
    while True:
        yield folder
        if folder == mount or mount not in folder.parents:
            return
        folder = folder.parent


def _quota_v2(folder: Path) -> float:
    return _ratio(_words(folder / "cpu.max"))


def _quota_v1(folder: Path) -> float:
    return _ratio(_words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us"))


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []


def _ratio(words: list[str]) -> float:
    """Return quota / period in microseconds; "max" and -1 stand for no limit."""
    try:
        quota, period = (int(word) for word in words)
    except ValueError:
        return math.inf
    return quota / period if quota > 0 and period > 0 else math.inf
