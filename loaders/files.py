"""Files written whole or not at all, lines of JSON, and checksums: one way for each.

Every file that fastdual writes goes through `write`, every record that it appends through
`append_line`. A reader therefore sees the old file or the new one, never a part, and the last line
of a process that was killed is at most one line that `read_lines` leaves out.
"""

import errno
import fcntl
import functools
import hashlib
import json
import logging
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from fastdual.errors import FailureError, InputError, why_not_written

_CHUNK_BYTES = 1 << 20

logger = logging.getLogger("fastdual.loaders")


def write(path: Path, content: bytes | memoryview | str, what: str) -> None:
    """Write a file atomically: a temporary file beside it, fsync, rename, fsync of the folder.

    Args:
        path: The file. A missing parent folder is made.
        content: Bytes, or text that is stored as UTF-8 (file names that are not UTF-8 survive).
        what: What the file is, for the message: "the index", "the results".

    Raises:
        FailureError: The file cannot be written; names the file and the system's reason.
    """
    make_folder_of(path, what)
    try:
        replace(path, os.fsencode(content) if isinstance(content, str) else content)
    except OSError as error:
        raise _failure(path, what, error) from error


def check_place(path: Path, what: str, *, needed_bytes: int = 0) -> None:
    """Make sure before long work that a file can be written; leave nothing behind.

    Args:
        path: The file; its folder need not be there.
        what: What the file is, as for `write`.
        needed_bytes: How large it will be, roughly.

    Raises:
        InputError: A folder, a pipe or a device is in its place, or a file in that of its folder.
        FailureError: The system does not let us write there, or the disk has no room for it.
    """
    _check_writable(path.parent, path, what, needed_bytes)
    if path.exists() and not path.is_file():
        kind = "folder" if path.is_dir() else "pipe or a device"
        raise InputError(f"{path} is a {kind}: name a file for {what}")


def check_folder(folder: Path, what: str, *, needed_bytes: int = 0) -> None:
    """Make sure before long work that files can be written in a folder; as `check_place` does."""
    _check_writable(folder, folder, what, needed_bytes)


def _check_writable(folder: Path, named: Path, what: str, needed_bytes: int) -> None:
    there = folder
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise InputError(f"{named}: {there} is no folder; name another place for {what}")
    try:
        with suppress(FileNotFoundError):
            named.lstat()  # is this a name that can be?
        probe = there / _temporary_name(named)
        probe.open("xb").close()
        probe.unlink()
        disk = os.statvfs(there)
    except OSError as error:
        raise FailureError(f"{_failure(named, what, error)}; name another place") from error
    free = disk.f_bavail * disk.f_frsize
    if disk.f_blocks and needed_bytes > free:  # some file systems do not say how large they are
        raise FailureError(
            f"{named}: {what} takes about {needed_bytes / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB "
            "are free there; free some space, or name another place"
        )


def refuse_special(path: Path) -> None:
    """Raise InputError for a pipe or a device, reading which might never end."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise InputError(f"{path} is a pipe or a device: name a file or a folder")


def _temporary_name(path: Path) -> str:
    """Return a name of one's own: two that write a file do not write into each other's."""
    return f".{path.name[:40]}.{secrets.token_hex(4)}.partial"


def make_folder_of(path: Path, what: str) -> None:
    """Make the folder of a file.

    Raises:
        FailureError: The folder cannot be made; names the file and the system's reason.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _failure(path, what, error) from error


def _failure(path: Path, what: str, error: OSError) -> FailureError:
    return FailureError(f"{path}: {what} could not be written: {why_not_written(error)}")


def replace(path: Path, content: bytes | memoryview) -> None:
    """Put a file in the place of another; for callers with a message of their own.

    Raises:
        OSError: The file cannot be written; the temporary file is removed.
    """
    temporary = path.with_name(_temporary_name(path))
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the renames in a folder durable, where its file system can: some cannot sync folders.

    What was renamed is whole in any case, so this is no failure of the writing.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        _warn_once(
            f"{folder}: its file system does not sync folders ({error.strerror}); a crash of the "
            "machine may undo what was written last"
        )


def lock(file: IO[Any], *, wait: bool) -> bool:
    """Lock an open file for this process; it ends when the file is closed, or with the process.

    Args:
        file: On a file system without locks (some of clusters) the work goes on unguarded, with one
            warning.
        wait: Whether to wait while another process holds the lock.

    Returns:
        Whether no other process holds it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        _warn_once(
            f"{Path(str(file.name)).parent}: its file system has no locks ({error.strerror}); see "
            "to it that no other process writes there"
        )
    return True


@functools.cache
def _warn_once(text: str) -> None:
    logger.warning("%s", text)


def regular(path: str, flags: int) -> int:
    """Open a file of ours for `open`: a plain one, not what a link of somebody else leads to.

    Raises:
        InputError: It is a link, a pipe, a device or a folder; reading it might never end.
    """
    descriptor = -1
    try:
        # Without blocking: opening a pipe would wait for its other end.
        mode = flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(path, mode, 0o666)
        is_plain = stat.S_ISREG(os.fstat(descriptor).st_mode)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
        is_plain = False
    if not is_plain:
        if descriptor >= 0:
            os.close(descriptor)
        raise InputError(f"{path} is a link, a pipe or a folder, not a file of ours: remove it")
    return descriptor


def append_line(path: Path, record: Mapping[str, Any], what: str) -> None:
    """Append one line of JSON in a single write, so that processes may share the file.

    Args:
        path: The file; it is made where it is missing, its folder is not.
        record: Plain values.
        what: What the file is, for the message.

    Raises:
        FailureError: The line cannot be written; names the file and the system's reason.
    """
    try:
        with open(path, "ab", buffering=0, opener=regular) as file:
            file.write(json.dumps(record).encode() + b"\n")
    except OSError as error:
        raise _failure(path, what, error) from error


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a file of JSON lines, none where the file is missing.

    A line that is not a JSON object is left out: the last line of a process that was killed may be
    cut anywhere, and a crash of the machine leaves any bytes.

    Raises:
        InputError: It is a link, a pipe or a folder.
    """
    if not os.path.lexists(path):
        return
    with open(path, "rb", opener=regular) as lines:
        for line in lines:
            record = parse_line(line)
            if record is not None:
                yield record


def parse_line(line: bytes) -> dict[str, Any] | None:
    """Return the JSON object that a line holds, or None if it holds none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        OSError: The file cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
