"""Checkpoints: written whole or not at all, checked before anything is taken from them.

A checkpoint is a `torch.save` file of plain values and tensors, which
`torch.load(path, weights_only=True)` reads too. It is a zip archive with a CRC-32 of every record.
torch does not check it; `load_checkpoint` does, so a file that was cut or altered is noticed.
"""

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from fastdual.errors import FailureError, InputError, first_line, shown
from fastdual.loaders.files import write

FORMAT = "fastdual checkpoint"
FORMAT_VERSION = 1
_DAMAGED = "it was altered, or written by other code; take another file"


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state atomically: the file appears complete, or the folder stays as it was.

    Args:
        path: The checkpoint file.
        state: Tensors and plain Python values, nested in dicts and lists.

    Raises:
        FailureError: The file cannot be written; names the system's reason.
    """
    # Serialised in memory first: torch's own writer copes badly with a disk that fills up under it.
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "format_version": FORMAT_VERSION, **state}, buffer)
    try:
        write(path, buffer.getbuffer(), "the checkpoint")
    except FailureError as error:
        kept = "earlier ones are untouched, and --resume continues from them"
        raise FailureError(f"{error}; {kept}") from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, after checking all of it; none of its content is run.

    Raises:
        InputError: The file is missing, damaged, or not one of fastdual's checkpoints.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint file")
    try:
        with open(path, "rb") as file:  # opened once: what was checked is what is read
            kind = file.read(32).partition(b" ")[0]
            if kind.startswith(b"fastdual-"):
                raise _OtherFile(kind.decode("ascii", "replace").removeprefix("fastdual-"))
            file.seek(0)
            verify_archive(file)
            file.seek(0)
            state = torch.load(file, map_location="cpu", weights_only=True)
        _check_sizes(state)
    except _OtherFile as other:
        raise InputError(
            f"{path}: a file of fastdual's, but of kind {other}; name a run or a checkpoint here"
        ) from None
    # On a foreign file torch raises whatever its parts do: pickle, zip, Unicode, index errors.
    except Exception as error:
        raise InputError(
            f"{path}: damaged, or not a checkpoint ({first_line(error)}); earlier ones of its "
            "folder may be whole"
        ) from None
    if not isinstance(state, dict) or not _is(state.get("format"), FORMAT):
        raise InputError(f"{path}: a torch file, but not a checkpoint that fastdual wrote")
    if not _is(state.get("format_version"), FORMAT_VERSION):
        raise InputError(
            f"{path}: checkpoint format {shown(state.get('format_version'))}, this fastdual reads "
            f"{FORMAT_VERSION}; use the version that wrote it"
        )
    return state


class _OtherFile(Exception):
    """An index, a pack or features in place of a checkpoint."""


def _is(value: object, expected: object) -> bool:
    # Of the same type first: a tensor compares with everything, and is then neither true nor false.
    return type(value) is type(expected) and value == expected


def verify_archive(file: BinaryIO) -> None:
    """Raise an error unless the records of a torch file are whole, and not compressed."""
    with zipfile.ZipFile(file) as archive:
        # torch never compresses; refusing it keeps a small file from unpacking to a huge one.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise zipfile.BadZipFile("compressed records")
        damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"checksum of {damaged} is wrong")


def _check_sizes(state: Any) -> None:
    """Raise a ValueError at a tensor that is larger than what the file holds of it."""
    inner, seen = [state], set[int]()
    while inner:
        value = inner.pop()
        if id(value) in seen:  # a list may hold itself
            continue
        seen.add(id(value))
        if isinstance(value, Tensor) and not is_plain(value):
            raise ValueError("a tensor that is larger than its values, or not a plain one")
        if isinstance(value, Mapping | list | tuple):
            inner.extend(value.values() if isinstance(value, Mapping) else value)


def is_plain(value: object) -> bool:
    """Whether a value is a tensor with all its values in memory, each in a place of its own.

    With strides of 0, four bytes of a file are a tensor of any size.
    """
    if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_meta:
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def check_weights(weights: object, *, origin: str | Path) -> None:
    """Raise an InputError unless weights are plain tensors by name, with finite values."""
    if not isinstance(weights, Mapping):
        raise InputError(f"{origin}: its weights are a {type(weights).__name__}; {_DAMAGED}")
    for name, value in weights.items():
        if not is_plain(value) or not isinstance(name, str):
            raise InputError(f"{origin}: {shown(name)} is no plain tensor; {_DAMAGED}")
        if not bool(torch.isfinite(value).all()):
            raise InputError(f"{origin}: {name} holds values that are not finite; {_DAMAGED}")


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], *, origin: str | Path) -> None:
    """Load a state dict into a model of the same layout.

    Args:
        model: Takes the weights.
        weights: Tensors by name.
        origin: Their file, for the message.

    Raises:
        InputError: Names the first entries that are missing, unknown or of another shape.
    """
    check_weights(weights, origin=origin)
    own = model.state_dict()
    problems = [f"{name} is missing" for name in own if name not in weights]
    problems += [f"{name} is unknown" for name in weights if name not in own]
    problems += [
        f"{name} is {list(weights[name].shape)} there and {list(own[name].shape)} here"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if problems:
        first = ", ".join(problems[:3])
        raise InputError(
            f"{origin}: weights of another model: {first} ({len(problems)} entries differ); "
            "use the recipe that it was trained with"
        )
    model.load_state_dict(weights)


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return the file of the checkpoint after `step` steps, in a run's folder of checkpoints."""
    return folder / f"step-{step:08d}.pt"


def step_of(path: Path) -> int:
    """Return the steps after which a checkpoint was written, by its name."""
    return int(path.stem.removeprefix("step-"))


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, the newest first."""
    return sorted(folder.glob("step-" + "[0-9]" * 8 + ".pt"), reverse=True)


@dataclass(frozen=True)
class Kept:
    """Which checkpoints of a run stay.

    Attributes:
        newest: So many, counted back from the last.
        every_steps: And each after a multiple of so many steps; None: no others.
    """

    newest: int
    every_steps: int | None = None

    def for_good(self, step: int) -> bool:
        """Return whether the checkpoint after `step` steps stays however old it becomes."""
        return self.every_steps is not None and step % self.every_steps == 0


def remove_old_checkpoints(folder: Path, *, keep: Kept, newest: Path) -> None:
    """Delete the checkpoints that do not stay, seen from the one just written.

    A checkpoint of a later step was skipped as damaged when the run was resumed. It is deleted as
    well, or it would be taken for the newest.
    """
    found = list_checkpoints(folder)
    place = found.index(newest)
    old = [path for path in found[place + keep.newest :] if not keep.for_good(step_of(path))]
    for path in found[:place] + old:
        path.unlink(missing_ok=True)


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint that a path stands for: a file itself, or the newest of a run folder.

    Raises:
        InputError: There is none.
    """
    if path.is_dir():
        found = list_checkpoints(path / "checkpoints") or list_checkpoints(path)
        if not found:
            raise InputError(f"{path}: holds no checkpoint; give a run folder or a step-*.pt file")
        return found[0]
    if not path.exists():
        raise InputError(f"{path}: no such run folder or checkpoint file")
    return path
