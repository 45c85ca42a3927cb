"""Paths: which files are videos, which paths of a list may be followed, what may be written."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from fastdual.errors import InputError

# fmt: off
VIDEO_SUFFIXES = frozenset({
    ".3g2", ".3gp", ".asf", ".avi", ".divx", ".f4v", ".flv", ".m2ts", ".m4v", ".mjpeg", ".mkv",
    ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m",
})
# fmt: on


def safe_relative(path: str, root: Path) -> str:
    """Return `path` relative to `root` with forward slashes.

    Raises:
        InputError: It leaves the root.
    """
    if "\0" in path or not path:
        raise InputError(f"{path!r} is not a path")
    if os.path.isabs(path):
        path = os.path.relpath(path, root)
    normal = PurePosixPath(os.path.normpath(path))
    if normal.is_absolute() or ".." in normal.parts or normal == PurePosixPath("."):
        raise InputError(f"the path {path!r} leads out of {root}; set --root to a folder above it")
    return str(normal)


def walk_videos(root: Path) -> Iterator[str]:
    """Yield the relative paths of all files with a video's ending; links are followed once."""
    seen: set[tuple[int, int]] = set()

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}") from error

    for folder, subfolders, files in os.walk(root, onerror=refuse, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            subfolders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in VIDEO_SUFFIXES:
                yield os.path.relpath(os.path.join(folder, name), root)


def refuse_folder(output: Path, example: str) -> None:
    """Raise InputError where a folder is named in place of the file to write."""
    if output.is_dir():
        raise InputError(f"{output} is a folder: name a file, such as {output / example}")


def refuse_special(path: Path) -> None:
    """Raise InputError for a pipe or a device, reading which might never end."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise InputError(f"{path} is a pipe or a device: name a file or a folder")
