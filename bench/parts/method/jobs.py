"""Cells in processes of their own, a few at a time, with an honest time left."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.parts.method.cells import Cell
from bench.parts.method.journal import Row, read

_POLL_SECONDS = 0.5


def run_all(
    cells: Sequence[Cell],
    command: Callable[[Cell], list[str]],
    *,
    log: Path,
    work: Path,
    jobs: int,
    say: Callable[[str], None] = print,
) -> list[Cell]:
    """Measure the cells that are not in the log, and return those that failed.

    Each process adds its own row, so that ending this one loses nothing that is complete. The text
    of a process goes to WORK/logs.

    Args:
        cells: In the order in which they are begun.
        command: The command line that measures one.
        log: The journal.
        work: Folder for the processes' text.
        jobs: Processes at a time.
        say: Called with a line after each cell.
    """
    done = {row["key"] for row in read(log)}
    waiting = [cell for cell in cells if cell.key not in done]
    say(f"{len(waiting)} of {len(cells)} cells are to be measured, {jobs} at a time")
    started, running, failed = time.monotonic(), dict[subprocess.Popen[bytes], Cell](), list[Cell]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                cell = waiting.pop(0)
                running[_start(command(cell), work / "logs" / f"{cell.key}.txt")] = cell
            time.sleep(_POLL_SECONDS)
            for process in [process for process in running if process.poll() is not None]:
                cell = running.pop(process)
                rows = {row["key"]: row for row in read(log)}
                if cell.key not in rows:
                    failed.append(cell)
                    say(f"failed (exit code {process.returncode}): {cell}; {work / 'logs'}")
                    continue
                left = seconds_left([*running.values(), *waiting], list(rows.values()), jobs)
                say(line(cell, rows[cell.key], left, time.monotonic() - started))
    finally:
        for process in running:
            process.terminate()  # it ends at its next step, with a checkpoint
        for process in running:
            process.wait()
    return failed


def _start(command: list[str], text: Path) -> "subprocess.Popen[bytes]":
    text.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with open(text, "ab") as output:
        arguments = [sys.executable, *command]
        return subprocess.Popen(arguments, env=environment, stdout=output, stderr=output)


def line(cell: Cell, row: Row, left: float | None, spent: float) -> str:
    """Return what is said of a cell that is complete."""
    top1 = row["means"].get("finetuned_100", row["means"].get("r1", 0.0) or 0.0)
    then = "unknown" if left is None else duration(left)
    took = duration(row["seconds"]["all"])
    return f"{cell}: {100 * top1:.1f} %, took {took}; {duration(spent)} gone, {then} left"


def seconds_left(cells: Sequence[Cell], rows: Sequence[Row], jobs: int) -> float | None:
    """Return the time for the rest: what such cells took on average; None where none is known."""
    took: dict[str, list[float]] = {}
    for row in rows:
        took.setdefault(row["contestant"], []).append(row["seconds"]["all"])
    if not took:
        return None
    means = {name: sum(seconds) / len(seconds) for name, seconds in took.items()}
    unknown = max(means.values())
    return sum(means.get(cell.contestant, unknown) for cell in cells) / jobs


def duration(seconds: float) -> str:
    """Return a time for people: 3 h 20 min, 4 min, 12 s."""
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
