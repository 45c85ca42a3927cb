"""What the tests ask of worker processes: which there are, and what they hold."""

import os
import time
from contextlib import suppress
from pathlib import Path


def children(parent: int | None = None) -> set[int]:
    """Process ids of a process's children; of this process's where none is named."""
    found: set[int] = set()
    for thread in Path(f"/proc/{parent or os.getpid()}/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended
            found.update(map(int, thread.read_text().split()))
    return found


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def is_worker(pid: int) -> bool:
    """Whether a process runs a worker's program; a new process runs its parent's for a moment."""
    try:
        return b"fastdual.loaders.pool.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):  # gone before, or between, opening and reading
        return False


def worker_pids() -> list[int]:
    """Process ids of this process's workers that are alive."""
    return sorted(filter(is_worker, children()))


def wait_until_dead(pids: list[int]) -> None:
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline, f"still alive: {pids}"
        time.sleep(0.02)


def shared_maps(pid: int) -> int:
    """Shared memories that a process maps."""
    return Path(f"/proc/{pid}/maps").read_text().count("memfd:fastdual")


def anonymous_mib(pid: int) -> float:
    """Memory of a process's own that it holds."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("Pss_Anon:")]
    return int(line.split()[1]) / 1024
