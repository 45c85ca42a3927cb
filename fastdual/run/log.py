"""What a run logs: JSON lines, TensorBoard, and Weights & Biases where it is asked for."""

import hashlib
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastdual.errors import FailureError, InputError
from fastdual.run.checkpoint import write_atomically
from fastdual.run.reading import StepReport


class RunLog:
    """Appends events to `log.jsonl` and the numbers of training to TensorBoard, in a run's folder.

    Args:
        folder: the run folder.
        start_step: steps done; what an earlier process logged beyond them is dropped, because
            those steps are about to be taken again.
        wandb_project: where Weights & Biases gets the numbers too; None: it does not.
    """

    def __init__(self, folder: Path, *, start_step: int, wandb_project: str | None = None) -> None:
        self._path = folder / "log.jsonl"
        self._wandb = None if wandb_project is None else _wandb_run(folder, wandb_project)
        with self._failures():
            if self._path.exists():
                lines = self._path.read_bytes().splitlines()
                kept = b"".join(line + b"\n" for line in lines if _step_of(line) <= start_step)
                write_atomically(self._path, kept)
            # Unbuffered: a line is written whole when it is due, or fails then and there.
            self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115, closed by close()
            self._board: Any = _summary_writer(folder / "tensorboard", start_step + 1)

    def event(self, name: str, *, step: int, **values: Any) -> None:
        """Write one JSON line: event, step, Unix time and values; what is not finite is null."""
        line = {"event": name, "step": step, "time": round(time.time(), 3), **values}
        text = json.dumps({key: _finite(value) for key, value in line.items()})
        with self._failures():
            self._file.write(f"{text}\n".encode())

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
        """Flush both and let go of them."""
        self._file.close()
        with self._failures():
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise FailureError(
                f"{self._path.parent}: the log could not be written: {error.strerror}; free some "
                "space and go on with --resume"
            ) from error


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
    """Wandb's side of a run: one for a folder, however often the run is resumed."""
    wandb: Any = import_module("wandb")
    number = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    return wandb.init(project=project, name=folder.name, id=number, resume="allow", dir=str(folder))


def _step_of(line: bytes) -> float:
    try:
        return float(json.loads(line)["step"])
    # The last line of a killed run may be cut anywhere; a crash of the machine leaves any bytes.
    except (ValueError, KeyError, TypeError):
        return math.inf


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
