"""What a run logs: JSON lines, TensorBoard, and Weights & Biases where it is asked for."""

import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastdual.errors import FailureError, InputError, why_not_written
from fastdual.loaders.files import append_line, read_lines, write
from fastdual.run.reading import StepReport


class RunLog:
    """Appends events to `log.jsonl` and the numbers of training to TensorBoard, in a run's folder.

    Args:
        folder: The run folder.
        start_step: Steps done. Lines that an earlier process logged beyond them are dropped:
            those steps are about to be taken again.
        wandb_project: Project of Weights & Biases that gets the numbers too; None: none does.

    Raises:
        FailureError: The log cannot be written.
    """

    def __init__(self, folder: Path, *, start_step: int, wandb_project: str | None = None) -> None:
        self._path = folder / "log.jsonl"
        self._wandb = None if wandb_project is None else _wandb_run(folder, wandb_project)
        if self._path.exists():
            kept = (line for line in read_lines(self._path) if _step_of(line) <= start_step)
            write(self._path, "".join(f"{json.dumps(line)}\n" for line in kept), "the log")
        with self._failures():
            self._board: Any = _summary_writer(folder / "tensorboard", start_step + 1)

    def event(self, name: str, *, step: int, **values: Any) -> None:
        """Append one JSON line: event, step, Unix time, values; one that is not finite is null."""
        line = {"event": name, "step": step, "time": round(time.time(), 3), **values}
        append_line(self._path, {k: _finite(value) for k, value in line.items()}, "the log")

    def report(self, report: StepReport) -> None:
        """Log a reading of the training loop."""
        values = {
            "learning_rate": report.learning_rate,
            **report.metrics,
            "clips_per_second": report.clips_per_second,
            "data_wait_share": report.data_wait_share,
        }
        self.event("train", step=report.step, epoch=report.epoch, **values)
        with self._failures():
            for name, value in values.items():
                self._board.add_scalar(f"train/{name}", value, report.step)
        if self._wandb is not None:
            named = {f"train/{name}": value for name, value in values.items()}
            self._wandb.log(named, step=report.step)

    def close(self) -> None:
        """Flush TensorBoard and Weights & Biases."""
        with self._failures():
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            why = f"the log could not be written: {why_not_written(error)}"
            raise FailureError(f"{self._path.parent}: {why}") from error


def _summary_writer(folder: Path, first_step: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter  # slow to import, and untyped

    return SummaryWriter(str(folder), purge_step=first_step)


def require_wandb(project: str | None) -> None:
    """Raise an InputError if Weights & Biases is asked for and not installed."""
    if project is not None and find_spec("wandb") is None:
        raise InputError(
            f"run.wandb_project = {project!r}: wandb is not installed; pip install wandb, or leave "
            "the key away"
        )


def _wandb_run(folder: Path, project: str) -> Any:
    """Return the run of wandb: one per folder, however often the run is resumed."""
    wandb: Any = import_module("wandb")
    number = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    return wandb.init(project=project, name=folder.name, id=number, resume="allow", dir=str(folder))


def _step_of(line: Mapping[str, Any]) -> float:
    step = line.get("step")
    return step if isinstance(step, int) else math.inf


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
