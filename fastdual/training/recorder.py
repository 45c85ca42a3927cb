"""What the processes of a run do together beside the steps: stop at one step, keep the results."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from fastdual.distributed.signals import StopRequest
from fastdual.distributed.team import Team
from fastdual.errors import FailureError
from fastdual.loaders.plan import ClipPlan
from fastdual.run.checkpoint import Kept
from fastdual.run.folder import RunFolder
from fastdual.run.log import RunLog
from fastdual.run.progress import ProgressLine
from fastdual.run.reading import StepReport
from fastdual.training.loop import Training
from fastdual.training.task import Watch


class AgreedStop:
    """Stops all processes at the same step, whichever of them got the signal."""

    def __init__(self, request: StopRequest, team: Team) -> None:
        self._request, self._team = request, team
        self.number: int | None = None

    def __call__(self) -> bool:
        self.number = self._team.agree(self._request.signal_number or 0) or None
        return self.number is not None


@dataclass(frozen=True)
class RunKeeper:
    """Keeps what the loop produces in the run folder, and shows it; rank 0 does so for all."""

    folder: RunFolder
    log: RunLog | None
    line: ProgressLine | None
    constants: dict[str, Any]
    keep: Kept
    team: Team
    watches: Sequence[Watch]

    def meet(self) -> None:
        self.team.meet()

    def report(self, report: StepReport) -> None:
        numbers = {**report.metrics, "": report.data_wait_share}
        means = self.team.mean(numbers)
        report = replace(
            report,
            data_wait_share=means.pop(""),
            metrics=means,
            clips_per_second=report.clips_per_second * self.team.world.size,
        )
        self.folder.writer.check()
        if self.log is not None and self.line is not None:
            self.log.report(report)
            self.line.show(report)
            for watch in self.watches:
                value = report.metrics[watch.metric]
                warning = watch.look(value, step=report.step)
                if warning is not None:
                    self.log.event(watch.event, step=report.step, **{watch.metric: value})
                    warnings.warn(warning, stacklevel=2)

    def save(self, training: Training) -> None:
        if self.log is not None:
            state = {**training.state_dict(), **self.constants}
            note = partial(self.log.event, "checkpoint", step=training.step)
            self.folder.save(state, keep=self.keep, written=lambda path: note(file=path.name))

    def wait_saved(self) -> None:
        self.folder.writer.wait()

    def save_plan(self, plan: ClipPlan, *, step: int) -> Path:
        world = self.team.world
        return self.folder.save_plan(plan, step=step, rank=world.rank if world.size > 1 else None)

    @contextmanager
    def failure_logged(self, training: Training) -> Iterator[None]:
        """Log what ended the block, so that `fastdual runs` tells it from a kill."""
        try:
            yield
        except Exception as error:
            self.folder.writer.join()  # its line in the log comes before the last
            reason = str(error).partition("\n")[0] or type(error).__name__
            if self.log is not None:
                with suppress(FailureError):  # a full disk may be what ended it
                    self.log.event("failed", step=training.step, reason=reason)
            raise
