"""Paths: which files are videos, which paths of a list may be followed, what may be written."""

import contextlib
import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from fastdual.errors import InputError
from fastdual.loaders.remote import names_of

logger = logging.getLogger("fastdual.loaders")

# fmt: off
VIDEO_SUFFIXES = frozenset({
    ".3g2", ".3gp", ".asf", ".avi", ".divx", ".f4v", ".flv", ".m2ts", ".m4v", ".mjpeg", ".mkv",
    ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m",
})
# fmt: on


def is_video(path: Path | PurePosixPath) -> bool:
    """Say whether a file has the ending of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def cache_folder(kind: str) -> Path:
    """Return the user's folder for what can be made again, such as "indexes"; it is made."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(base).expanduser() / "fastdual" / kind
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass  # a home that is read-only or does not exist, as on some clusters
    folder = _own_folder(Path(tempfile.gettempdir()) / f"fastdual-{os.getuid()}") / kind
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _own_folder(folder: Path) -> Path:
    """Return a folder that nobody else can have prepared, in a place where all may write.

    Raises:
        InputError: It is there and belongs to another user, is open to others, or is a link.
    """
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = os.lstat(folder)
    mine = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    if not mine or status.st_mode & 0o077:
        raise InputError(
            f"{folder} is not a folder of this user alone, so nothing in it can be trusted: remove "
            "it, or name a folder for the cache in XDG_CACHE_HOME"
        )
    return folder


def safe_relative(path: str, root: Path) -> str:
    """Return `path` relative to `root` with forward slashes.

    An absolute path may lead to the root through links, as /mnt/data for /data.

    Raises:
        InputError: It leaves the root, or is none.
    """
    if "\0" in path or not path:
        raise InputError(f"{path!r} is not a path")
    relative = _inside(os.path.relpath(path, root) if os.path.isabs(path) else path)
    if relative is None and os.path.isabs(path):
        folder, name = os.path.split(os.path.normpath(path))
        real = os.path.join(os.path.realpath(folder), name)
        relative = _inside(os.path.relpath(real, os.path.realpath(root)))
    if relative is None:
        raise InputError(f"the path {path!r} leads out of {root}; set --root to a folder above it")
    return relative


def _inside(path: str) -> str | None:
    """Return a relative path without detours, or None if it leads out."""
    normal = PurePosixPath(os.path.normpath(path))
    is_out = normal.is_absolute() or ".." in normal.parts or normal == PurePosixPath(".")
    return None if is_out else str(normal)


def walk_videos(root: Path) -> Iterator[str]:
    """Yield the relative paths of all files with a video's ending; links are followed once.

    A link to a folder above the root is not followed: it leads to everything there is.

    Raises:
        InputError: A folder cannot be read.
    """
    remote = names_of(root)
    if remote is not None:  # nothing of them need be here
        hidden = (
            any(part.startswith(".") for part in PurePosixPath(name).parts) for name in remote
        )
        names = zip(remote, hidden, strict=True)
        yield from (name for name, hid in names if not hid and is_video(PurePosixPath(name)))
        return
    seen: set[tuple[int, int]] = set()
    above = {_identity(folder) for folder in Path(os.path.realpath(root)).parents}

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # removed meanwhile
            raise InputError(f"{error.filename} cannot be read: {error.strerror}") from error

    for folder, subfolders, files in os.walk(root, onerror=refuse, followlinks=True):
        identity = _identity(Path(folder))
        if identity in seen or identity in above:
            if identity in above:
                logger.warning("%s is a link to a folder above %s: left out", folder, root)
            subfolders.clear()
            continue
        seen.add(identity)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and is_video(PurePosixPath(name)):
                yield os.path.relpath(os.path.join(folder, name), root)


def _identity(folder: Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino
