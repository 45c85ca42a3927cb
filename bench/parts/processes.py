"""CPU time and memory of processes, read from /proc."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def process_tree(root: int) -> dict[int, float]:
    """Return the CPU seconds, by process id, of a process and of all its descendants.

    The seconds of a child that has ended count for its parent.
    """
    parents, seconds = {}, {}
    for entry in os.listdir("/proc"):
        try:
            fields = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
        except (OSError, ValueError):
            continue  # not a process, or one that has just ended
        if entry.isdigit():
            parents[int(entry)] = int(fields[1])
            seconds[int(entry)] = sum(map(int, fields[11:15])) / _TICKS
    family = {root}
    while found := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= found
    return {pid: seconds[pid] for pid in family if pid in seconds}


def memory_mib(pids: Iterable[int], kinds: tuple[str, ...] = ("Pss:",)) -> float:
    """Return the host memory of processes in MiB, 0 for those that have ended.

    Args:
        pids: Process ids.
        kinds: Entries of smaps_rollup that count. By default the proportional set size, in which
            processes share the cost of a page.
    """
    kib = 0
    for pid in pids:
        with contextlib.suppress(OSError):  # it has just ended
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith(kinds):
                    kib += int(line.split()[1])
    return kib / 1024
