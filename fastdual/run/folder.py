"""A run's folder: its config, its checkpoints, and the right of one process to write there.

RUN/config.toml, log.jsonl, tensorboard/, checkpoints/step-00000123.pt, quarantine.jsonl, index.h5
(the videos) and left-out.csv (those that could not be used from the start).
"""

import csv
import dataclasses
import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fastdual.errors import FailureError, InputError, why_not_written
from fastdual.loaders.files import check_folder, lock, regular, replace, write
from fastdual.loaders.index import VideoIndex, load_index, save_index
from fastdual.loaders.plan import ClipPlan
from fastdual.run.checkpoint import (
    Kept,
    checkpoint_path,
    list_checkpoints,
    load_checkpoint,
    remove_old_checkpoints,
    save_checkpoint,
)
from fastdual.run.writer import CheckpointWriter, copy_state

CONFIG_NAME = "config.toml"


class RunFolder:
    """The files of one run.

    Args:
        path: The folder; it need not exist.

    Raises:
        InputError: It is a file.
    """

    def __init__(self, path: Path) -> None:
        if path.exists() and not path.is_dir():
            raise InputError(f"--run {path}: is a file; name a folder for the run")
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.config_file = path / CONFIG_NAME
        self.quarantine_file = path / "quarantine.jsonl"
        self.index_file = path / "index.h5"
        self.writer = CheckpointWriter()

    @property
    def holds_run(self) -> bool:
        """Whether a run was started here."""
        return self.config_file.exists() or bool(list_checkpoints(self.checkpoints))

    def check_place(self, needed_bytes: int = 0) -> None:
        """Make sure, before the work, that the run can be written; nothing is made.

        Args:
            needed_bytes: What its checkpoints will take at most.

        Raises:
            InputError: A file is in the place of a folder.
            FailureError: The system does not let us write there, or the disk has no room for it.
        """
        held = sum(path.stat().st_size for path in list_checkpoints(self.checkpoints))
        for folder in (self.path, self.checkpoints):
            check_folder(folder, "the run", needed_bytes=max(0, needed_bytes - held))

    @contextmanager
    def claimed(self, config_toml: str) -> Iterator[None]:
        """Keep other processes out while the block runs; write the config where there is none.

        Args:
            config_toml: The text of config.toml for a new run.

        Raises:
            InputError: Another process is training here.
            FailureError: The folder cannot be written.
        """
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            # The lock ends with the process, however that ends; the file itself means nothing.
            held = open(self.path / ".lock", "a", opener=regular)  # noqa: SIM115
            if not lock(held, wait=False):
                held.close()
                raise InputError(
                    f"--run {self.path}: another process is training in this folder; wait for it, "
                    "or choose another folder"
                )
            for folder in (self.path, self.checkpoints):
                for cut in folder.glob(".*.partial"):  # of a process that was killed
                    cut.unlink(missing_ok=True)
            if not self.config_file.exists():
                replace(self.config_file, config_toml.encode())
        except OSError as error:
            why = why_not_written(error)
            join = ", or" if ";" in why else ";"
            raise FailureError(
                f"--run {self.path}: cannot be written: {why}{join} choose another folder"
            ) from error
        with held:
            yield

    def stored_index(self) -> VideoIndex | None:
        """Return the videos that the run goes through; None for a run of an older version.

        Raises:
            InputError: The file is damaged.
        """
        return load_index(self.index_file) if self.index_file.exists() else None

    def keep_index(self, index: VideoIndex) -> None:
        """Write down the videos that the run goes through, and those that it cannot use.

        Raises:
            FailureError: The folder cannot be written.
        """
        before = self.stored_index()
        if before is not None and before.fingerprint == index.fingerprint:
            return
        # Of a pack, too, only what is known of the videos.
        save_index(dataclasses.replace(index, packed=None), self.index_file)
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([("path", "reason"), *index.quarantine])
        write(self.path / "left-out.csv", text.getvalue(), "the list of videos left out")

    def save(
        self, state: Mapping[str, Any], *, keep: Kept, written: Callable[[Path], None]
    ) -> None:
        """Copy a state now; write its checkpoint in a thread, then drop those that do not stay.

        Args:
            state: What `load_newest` returns again.
            keep: Which checkpoints stay.
            written: Called with the file when it is there, in that thread.

        Raises:
            FailureError: The checkpoint before this one could not be written.
        """
        path, copy = checkpoint_path(self.checkpoints, state["step"]), copy_state(dict(state))

        def save_copy() -> None:
            save_checkpoint(path, copy)
            remove_old_checkpoints(self.checkpoints, keep=keep, newest=path)
            written(path)

        self.writer.start(save_copy)

    def load_newest(self) -> tuple[Path, dict[str, Any]] | None:
        """Return file and state of the newest checkpoint that is whole; warn of damaged ones.

        Raises:
            InputError: There are checkpoints, and every one is damaged.
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
        """Write the plan of a step's batch as arrays, and return the file.

        Args:
            plan: Of the batch, or of a rank's part of it.
            step: Steps done before it.
            rank: Whose part it is; None: the whole batch.

        Raises:
            FailureError: The file cannot be written.
        """
        part = "" if rank is None else f"-rank-{rank}"
        path = self.path / f"plan-step-{step:08d}{part}.npz"
        content = io.BytesIO()
        arrays = {name: value for name, value in vars(plan).items() if value is not None}
        np.savez(content, **arrays)
        write(path, content.getbuffer(), "the plan")
        return path
