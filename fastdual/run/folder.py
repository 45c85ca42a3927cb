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

from fastdual.config.recipe import Resolved, read_recipe, read_toml, to_toml
from fastdual.config.sections import RESUME_KEYS, PretrainConfig, resolve
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

DEFAULT_RECIPE = "paper-simclr"


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
    def claimed(self, config: Resolved[PretrainConfig]) -> Iterator[None]:
        """Keep other processes out while the block runs; write the config where there is none.

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
                text = to_toml(config.config.to_dict(), config.sources)
                write_atomically(self.config_file, text.encode())
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


def resolve_config(
    folder: RunFolder,
    *,
    recipe: str | None,
    flags: Mapping[str, tuple[str, Any]],
    settings: tuple[str, ...],
    resume: bool,
) -> Resolved[PretrainConfig]:
    """The config of a new run, or of the one to go on with.

    Args:
        folder: the run's folder.
        recipe: name or file; None: the run's own config when there is one, else the paper's.
        flags: dotted key and value that each command line flag gives.
        settings: texts `key=value`; they win over flags, flags over the recipe.
        resume: go on with the run that the folder may hold.

    Raises:
        InputError: a bad recipe or setting; a folder that holds a run already; a resumed run that
            is given another value of something that decides what is computed.
    """
    if folder.holds_run and not resume:
        raise InputError(
            f"--run {folder.path}: holds a run already; add --resume to go on with it, or choose "
            "another folder"
        )
    by_flag = [(flag, {key: value}) for flag, (key, value) in flags.items()]
    if not folder.config_file.exists():
        return resolve([read_recipe(recipe or DEFAULT_RECIPE), *by_flag], settings)
    own = (f"run {folder.path.name}", read_toml(folder.config_file))
    asked = resolve([own if recipe is None else read_recipe(recipe), *by_flag], settings)
    stored, wanted = resolve([own]).config.to_dict(), asked.config.to_dict()
    for key in stored:
        if stored[key] != wanted[key] and key not in RESUME_KEYS:
            raise InputError(
                f"{key} is {stored[key]!r} in the run {folder.path} and {wanted[key]!r} from "
                f"{asked.sources[key]}: a resumed run keeps its settings; leave it away, or start "
                "another run folder"
            )
    return asked
