"""A keeper for tests that keeps everything in lists."""

from pathlib import Path
from typing import Any

from fastdual.loaders.plan import ClipPlan
from fastdual.run.folder import RunFolder
from fastdual.run.reading import StepReport
from fastdual.training.loop import Training, train


class ListKeeper:
    """Keeps everything in lists."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reports: list[StepReport] = []
        self.saved_steps: list[int] = []

    def meet(self) -> None:
        pass

    def report(self, report: StepReport) -> None:
        self.reports.append(report)

    def save(self, training: Training) -> None:
        self.saved_steps.append(training.step)

    def wait_saved(self) -> None:
        pass

    def save_plan(self, plan: ClipPlan, *, step: int) -> Path:
        return RunFolder(self.folder).save_plan(plan, step=step)


def run(training: Training, keeper: ListKeeper, **changes: Any) -> bool:
    pace = {"log_every_steps": 2, "checkpoint_every_steps": 3, "should_stop": lambda: False}
    return train(training, keeper, **(pace | changes))
