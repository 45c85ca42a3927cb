"""Indexes as files: read one (or that of a pack), write one, compare it with its videos."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from fastdual.errors import InputError
from fastdual.loaders.files import refuse_special
from fastdual.loaders.index.fields import read_fields, write_fields
from fastdual.loaders.index.hdf5 import UNREADABLE, Container, Tables
from fastdual.loaders.index.missing import look_for_files
from fastdual.loaders.index.pack_file import check_shards, is_pack, read_pack
from fastdual.loaders.index.table import VideoIndex

_INDEX = Container(b"fastdual-index ", 2, "an index", "fastdual index", "build it again")

is_index = _INDEX.claims


def load_index(path: Path, *, root: Path | None = None) -> VideoIndex:
    """Read an index or the index of a pack.

    Args:
        path: The index file or the pack.
        root: Replaces the folder of the videos that the index states; for a pack, the folder of its
            shards.

    Raises:
        InputError: It is missing, foreign, truncated, altered or of another version.
    """
    path = Path(path)
    refuse_special(path)
    fields = read_pack(path, root) if is_pack(path) else _read(path, root)
    try:
        return VideoIndex(**fields)
    except UNREADABLE as error:  # an InputError, or what an odd array raises where it is checked
        raise InputError(f"{path} contradicts itself ({error}); make it again") from error


def _read(path: Path, root: Path | None) -> dict[str, Any]:
    def decode(file: Any, tables: Tables) -> dict[str, Any]:
        stated = root if root is not None else _stated_root(file, path.absolute().parent)
        return {**read_fields(file, tables), "root": stated.absolute()}

    return _INDEX.read(path, decode)


def _stated_root(file: Any, folder: Path) -> Path:
    texts = [bytes(file.attrs[name]) for name in ("root_relative", "root")]
    if any(b"\0" in text for text in texts):
        raise ValueError("its folder holds a zero byte")
    relative, absolute = map(os.fsdecode, texts)
    root = Path(os.path.normpath(folder / relative))
    return root if root.is_dir() else Path(absolute)


def save_index(index: VideoIndex, path: Path) -> None:
    """Write an index whole or not at all; it states its folder also relative to the file.

    Args:
        index: Not that of a pack, which is saved in the pack.
        path: The file.

    Raises:
        FailureError: It cannot be written, for instance because the disk is full.
    """
    if index.packed is not None:
        raise ValueError("the index of a pack is saved in the pack")
    path = Path(path).absolute()

    def fill(file: Any) -> None:
        relative = os.path.relpath(index.root, path.parent)
        file.attrs["root"] = np.void(os.fsencode(index.root))
        file.attrs["root_relative"] = np.void(os.fsencode(relative))
        write_fields(file, index)

    _INDEX.write(path, fill)


def check_files(index: VideoIndex) -> None:
    """Make sure that the files are still there and unchanged in size (a sample of very many).

    Raises:
        InputError: Names the first file and the remedy.
    """
    if index.packed is not None:
        check_shards(index.packed)
        return
    wrong = look_for_files(index)
    if wrong:
        first = min(wrong)
        raise InputError(
            f"{len(wrong)} of {len(index)} videos of the index cannot be used (first: "
            f"{index.path(first)}: {wrong[first]}): if they were moved, name the new folder with "
            "--root; if they were changed, index them again"
        )
