"""A run's folder: its config, its checkpoints, and the right of one process to write there.

RUN/config.toml, log.jsonl, tensorboard/, checkpoints/step-00000123.pt, quarantine.jsonl.
"""

import fcntl
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fastdual.errors import FailureError, InputError, why_not_written
from fastdual.loaders.plan import ClipPlan
from fastdual.run.checkpoint import (
    checkpoint_path,
    list_checkpoints,
    load_checkpoint,
    remove_old_checkpoints,
    save_checkpoint,
    write_atomically,
)
from fastdual.run.writer import CheckpointWriter, snapshot


class RunFolder:
    """The files of one run.

    Args:
        path: the folder; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        if path.exists() and not path.is_dir():
            raise InputError(f"--run {path}: is a file; name a folder for the run")
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.config_file = path / "config.toml"
        self.quarantine_file = path / "quarantine.jsonl"
        self._writer = CheckpointWriter()

    @property
    def holds_run(self) -> bool:
        """Whether a run was started here."""
        return self.config_file.exists() or bool(list_checkpoints(self.checkpoints))

    @contextmanager
    def claimed(self, config_toml: str) -> Iterator[None]:
        """Keep other processes out while the block runs; write the config where there is none.

        Args:
            config_toml: The text of config.toml for a new run.

        Raises:
            InputError: another process is training here.
            FailureError: the folder cannot be written.
        """
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            # The lock ends with the process, however that ends; the file itself means nothing.
            lock = open(self.path / ".lock", "a")  # noqa: SIM115
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for cut in self.checkpoints.glob(".*.partial"):  # of a process that was killed
                cut.unlink(missing_ok=True)
            if not self.config_file.exists():
                write_atomically(self.config_file, config_toml.encode())
        except BlockingIOError:
            raise InputError(
                f"--run {self.path}: another process is training in this folder; wait for it, or "
                "choose another folder"
            ) from None
        except OSError as error:
            why = why_not_written(error)
            join = ", or" if ";" in why else ";"
            raise FailureError(
                f"--run {self.path}: cannot be written: {why}{join} choose another folder"
            ) from error
        with lock:
            yield

    def save(self, state: Mapping[str, Any], *, keep: int, written: Callable[[Path], None]) -> None:
        """Copy a state now; write its checkpoint, and drop all but the newest `keep`, meanwhile.

        Args:
            state: what `load_newest` returns again.
            keep: checkpoints that stay.
            written: told the file when it is there, from another thread.

        Raises:
            FailureError: the checkpoint before this one could not be written.
        """
        path, copy = checkpoint_path(self.checkpoints, state["step"]), snapshot(dict(state))

        def write() -> None:
            save_checkpoint(path, copy)
            remove_old_checkpoints(self.checkpoints, keep=keep, newest=path)
            written(path)

        self._writer.start(write)

    def finish_saving(self) -> None:
        """Wait until nothing is being written, and keep a failure for `wait_saved`."""
        self._writer.join()

    def check_saved(self) -> None:
        """Raise the FailureError of a checkpoint that could not be written; does not wait."""
        self._writer.check()

    def wait_saved(self) -> None:
        """Wait until all checkpoints are on the disk.

        Raises:
            FailureError: one of them could not be written.
        """
        self._writer.wait()

    def load_newest(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint that is whole; damaged ones are named in a warning and passed over.

        Raises:
            InputError: there are checkpoints, and every one is damaged.
        """
        found = list_checkpoints(self.checkpoints)
        for path in found:
            try:
                return path, load_checkpoint(path)
            except InputError as error:
                warnings.warn(f"{error}; falling back to the one before", stacklevel=2)
        if found:
            raise InputError(
                f"{self.path}: none of its {len(found)} checkpoints is whole; start another folder"
            )
        return None

    def save_plan(self, plan: ClipPlan, *, step: int, rank: int | None = None) -> Path:
        """Write the plan of a step's batch, or of a rank's part of it, as arrays; returns it."""
        part = "" if rank is None else f"-rank-{rank}"
        path = self.path / f"plan-step-{step:08d}{part}.npz"
        arrays = {name: value for name, value in vars(plan).items() if value is not None}
        np.savez(path, **arrays)
        return path
