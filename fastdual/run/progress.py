"""What a run shows while it trains: a progress bar or lines on stderr, and its time per epoch."""

import math
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from types import MappingProxyType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from fastdual.console import say
from fastdual.run.reading import LOGGED_ONLY, SHARES, StepReport, estimate_steps

# A file that stderr is redirected to cannot show a moving bar: it gets a line this often at most.
_PLAIN_INTERVAL_SECONDS = 10.0
# The accuracies that say most, and their short names.
_SHORT = {"clip_top1": "clip", "rank_accuracy": "rank", "train_top1": "top1"}


class ProgressLine:
    """Show readings on stderr: a bar on a terminal, a line every few seconds elsewhere.

    Args:
        total_steps: Steps of the whole run.
        start_step: Steps done before.
        chances: Chance level of each accuracy, by the metric's name.
        verbose: Show every metric, speed and data wait; otherwise what fits 100 characters.
    """

    def __init__(
        self,
        *,
        total_steps: int,
        start_step: int,
        chances: Mapping[str, float] = MappingProxyType({}),
        verbose: bool = False,
    ) -> None:
        self._chances, self._verbose = chances, verbose
        console = Console(file=sys.stderr)
        self._estimate = EpochEstimate(start_step=start_step, total_steps=total_steps)
        self._last_plain = -math.inf
        self._live: Live | None = None
        # A dumb terminal cannot move its cursor: it would show the bar once, at the end.
        if console.is_terminal and not console.is_dumb_terminal:
            columns = (BarColumn(20), MofNCompleteColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=console)
            self._task = self._bar.add_task("", total=total_steps, completed=start_step)
            self._live = Live(self._bar, console=console)

    def show(self, report: StepReport) -> None:
        """Show a reading; the last one of a run is always shown."""
        estimate = self._estimate.look(report)
        if estimate is not None and self._live is not None:
            self._live.console.print(estimate, highlight=False)
        elif estimate is not None:
            say(estimate, err=True)
        describe = describe_all if self._verbose else describe_short
        place, metrics = describe(report, self._chances)
        if self._live is not None:
            self._bar.update(self._task, completed=report.step, description=place)
            # Below the bar, where a narrow terminal can break the line.
            self._live.update(Group(self._bar, Text(metrics)))
            return
        is_last = report.step == report.total_steps
        if is_last or time.monotonic() - self._last_plain >= _PLAIN_INTERVAL_SECONDS:
            self._last_plain = time.monotonic()
            step = f"step {report.step}/{report.total_steps}"
            say(f"{step} {place} | {metrics}", err=True)

    def __enter__(self) -> "ProgressLine":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()


class EpochEstimate:
    """Estimate once how long an epoch and the rest of the run take (`estimate_steps`).

    Args:
        start_step: Steps that earlier processes did.
        total_steps: Length of the run.
    """

    def __init__(self, *, start_step: int, total_steps: int) -> None:
        self._from_step, self._to_step = estimate_steps(start_step, total_steps)
        self._begun = (start_step, time.perf_counter())
        self._told = False

    def look(self, report: StepReport) -> str | None:
        """Return a line for people at the first reading that allows it, None at all others."""
        now = time.perf_counter()
        if report.step <= self._from_step:
            self._begun = (report.step, now)
        if self._told or report.step < self._to_step:
            return None
        self._told = True
        step, began = self._begun
        seconds_per_step = (now - began) / (report.step - step)
        steps_per_epoch = report.step / report.epoch
        epoch = _duration(seconds_per_step * steps_per_epoch)
        left = _duration(seconds_per_step * (report.total_steps - report.step))
        return (
            f"estimate  {epoch} per epoch, {left} to the end, by steps {step} to {report.step}; "
            f"{report.clips_per_second:.1f} clips/s, data wait {report.data_wait_share:.0%}"
        )


def describe_short(report: StepReport, chances: Mapping[str, float]) -> tuple[str, str]:
    """Return where the run is, and the loss and the accuracies beside their chance levels."""
    words = [f"loss {report.metrics['loss']:.4g}"] if "loss" in report.metrics else []
    for name, title in _SHORT.items():
        if name in report.metrics:
            chance = f" (chance {chances[name]:.0%})" if name in chances else ""
            words.append(f"{title} {report.metrics[name]:.0%}{chance}")
    return f"epoch {report.epoch:.1f} {_left(report)}", " ".join(words)


def describe_all(report: StepReport, chances: Mapping[str, float]) -> tuple[str, str]:
    """Return place and speed, and every metric that is not for the log alone."""
    place = (
        f"epoch {report.epoch:.1f}, {report.clips_per_second:.1f} clips/s, "
        f"data wait {report.data_wait_share:.0%}, {_left(report)}"
    )
    words = []
    for name, value in report.metrics.items():
        if name in SHARES:
            chance = f" (chance {chances[name]:.1%})" if name in chances else ""
            words.append(f"{name.replace('_', ' ')} {value:.0%}{chance}")
        elif name not in LOGGED_ONLY:
            words.append(f"{name} {value:.3f}")
    return place, " ".join(words)


def _left(report: StepReport) -> str:
    return f"{timedelta(seconds=round(report.seconds_left))} left"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))
