"""Progress on stderr, so that stdout carries results alone."""

import sys
import time
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# A log file is no place for a moving bar: there, a line is printed this often at most.
PLAIN_INTERVAL_SECONDS = 10.0


def track(progress: Iterable[tuple[int, int]], label: str) -> None:
    """Run an iterator of (done, total) to its end: a bar on a terminal, lines elsewhere."""
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        for line in _plain_lines(progress, label):
            print(line, file=sys.stderr, flush=True)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(label, total=None)
        for done, total in progress:
            bar.update(task, completed=done, total=total)


def _plain_lines(progress: Iterable[tuple[int, int]], label: str) -> Iterator[str]:
    last, done, total = time.monotonic(), 0, 0
    for done, total in progress:
        if time.monotonic() - last >= PLAIN_INTERVAL_SECONDS:
            last = time.monotonic()
            yield f"{label} {done}/{total}"
    yield f"{label} {done}/{total}"
