"""The progress line of commands that go through a set of videos; on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fastdual.console import say


@contextmanager
def video_progress(verb: str) -> Iterator[Callable[[int, int, int], None]]:
    """Show a bar while the block runs; yields the function to tell (done, total, bad) to."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (
        "{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        "{task.fields[bad]}",
    )
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task(f"{verb} videos", total=None, bad="")

    def tell(done: int, total: int, bad: int) -> None:
        bar.start()  # not before the first video: an error until then stays one line
        text = f"{bad} cannot be used" if bad else ""
        bar.update(task, completed=done, total=total, bad=text)

    try:
        yield tell
    finally:
        if bar.live.is_started:
            bar.stop()


@contextmanager
def keeping_what_is_done(verb: str) -> Iterator[Callable[[int, int, int], None]]:
    """Show `video_progress` for work that continues where it was stopped; say so on Ctrl-C."""
    try:
        with video_progress(verb) as progress:
            yield progress
    except KeyboardInterrupt:
        say("stopped: what is done is kept, the same command continues from here", err=True)
        raise
