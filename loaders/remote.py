"""Videos in object storage: a folder in the cache stands for them, and fills as they are read.

    folder = mount("s3://bucket/videos")      lists the bucket, fetches nothing
    fetch(folder / "class" / "a.mp4")         fetches one video, if it is not there yet

The folder holds two files of its own: `.remote.json` says what it stands for and how large it may
get, `.listing.jsonl` has one line per video. Every reader of a video calls `fetch` first, so that
indexing, packing and training work as on a folder, in any number of processes. What was used least
recently is removed when the folder is full.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import secrets
import time
from pathlib import Path, PurePosixPath
from typing import Any

from fastdual.errors import FailureError, InputError
from fastdual.loaders.files import lock, read_lines, regular, write

DEFAULT_LIMIT_BYTES = 20 * 10**9
_PROTOCOLS = ("s3", "gs", "gcs", "hf", "http", "https")
# pathlib makes one slash of two.
_ADDRESS = re.compile(rf"({'|'.join(_PROTOCOLS)}):/{{1,2}}(?!/)(.+)", re.IGNORECASE)
_MARK, _LISTING = ".remote.json", ".listing.jsonl"


def address_of(source: Path | str) -> str | None:
    """Return the address that a source is, such as s3://bucket/videos; None for a local path."""
    match = _ADDRESS.fullmatch(str(source))
    return None if match is None else f"{match[1].lower()}://{match[2].rstrip('/')}"


def mount(address: str, cache: Path, *, limit_bytes: int | None = None) -> Path:
    """List what is at an address, and return the folder that stands for it.

    Args:
        address: As `address_of` returns it.
        cache: Where the folder is made.
        limit_bytes: The folder's size, above which videos are removed; None: as it was before, or
            20 GB.

    Raises:
        InputError: There is nothing at the address, or what reads it is not installed.
        FailureError: It cannot be reached.
    """
    folder = cache / hashlib.sha256(address.encode()).hexdigest()[:24]
    mark = folder / _MARK
    if limit_bytes is None:
        limit_bytes = _read_mark(mark)["limit_bytes"] if mark.exists() else DEFAULT_LIMIT_BYTES
    lines = [json.dumps(line) + "\n" for line in _list(address)]
    write(folder / _LISTING, "".join(lines), "the list of remote videos")
    content = json.dumps({"address": address, "limit_bytes": limit_bytes}) + "\n"
    write(mark, content, "the mark of remote videos")
    _listing.cache_clear()
    _root_of.cache_clear()
    return folder


def names_of(folder: Path) -> list[str] | None:
    """Return the relative paths of all files that a folder stands for; None for a local folder."""
    return list(_listing(folder)) if _root_of(folder) == folder else None


def stat(path: Path) -> tuple[int, int]:
    """Return size and time of change in nanoseconds of a file, here or at its address.

    Raises:
        OSError: There is none.
    """
    root = _root_of(path.parent)
    if root is None:
        status = os.stat(path)
        return status.st_size, status.st_mtime_ns
    known = _listing(root).get(path.relative_to(root).as_posix())
    if known is None:
        raise FileNotFoundError(f"{path} is not at its address")
    return known


def fetch(path: Path) -> None:
    """Bring a file of a mounted folder here, unless it is here; do nothing for any other.

    Raises:
        FailureError: It cannot be fetched; names its address.
    """
    root = _root_of(path.parent)
    if root is None:
        return
    name = path.relative_to(root).as_posix()
    size, modified_ns = _listing(root).get(name, (-1, 0))
    if size < 0:
        return  # whoever opens it says that it is missing
    try:
        if path.stat().st_size == size:
            os.utime(path, ns=(time.time_ns(), modified_ns))
            return
    except FileNotFoundError:
        pass
    mark = _read_mark(root / _MARK)
    address = f"{mark['address']}/{name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        files, place = _open(address)
        files.get_file(place, str(temporary))
        os.utime(temporary, ns=(time.time_ns(), modified_ns))
        os.replace(temporary, path)
    except Exception as error:
        raise FailureError(f"{address} cannot be fetched: {_reason(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)
    _make_room(root, mark["limit_bytes"], path)


def _list(address: str) -> list[dict[str, Any]]:
    files, place = _open(address)
    try:
        found = files.find(place, detail=True)
    except FileNotFoundError:
        found = {}
    except Exception as error:
        raise FailureError(f"{address} cannot be listed: {_reason(error)}") from error
    base = place.rstrip("/") + "/"
    lines = []
    for full, facts in sorted(found.items()):
        name = full.removeprefix(base)
        if name == full or facts.get("type") != "file" or not _is_plain(name):
            continue
        changed = facts.get("LastModified") or facts.get("mtime") or facts.get("last_modified")
        seconds = int(changed.timestamp()) if hasattr(changed, "timestamp") else 0
        size, modified_ns = int(facts["size"]), seconds * 10**9
        lines.append({"name": name, "size": size, "modified_ns": modified_ns})
    if not lines:
        raise InputError(f"{address}: nothing is there; name a bucket and the folder in it")
    return lines


def _is_plain(name: str) -> bool:
    """Whether a name stays inside the folder: it is text from somebody else."""
    return not name.startswith("/") and not {"", ".", ".."} & set(name.split("/"))


def _open(address: str) -> tuple[Any, str]:
    """Return fsspec's file system of an address, and the place in it."""
    try:
        import fsspec

        how = {"skip_instance_cache": True, "use_listings_cache": False}  # what is there now
        files, place = fsspec.core.url_to_fs(address, **how)
    except ImportError as error:
        raise InputError(
            f'{address}: {error.msg or error}: run pip install ".[remote]" in fastdual\'s checkout'
        ) from error
    except ValueError as error:
        raise InputError(f"{address}: {error}") from error
    return files, str(place)


@functools.lru_cache(4096)
def _root_of(folder: Path) -> Path | None:
    """Return the mounted folder that a folder belongs to."""
    return next((above for above in (folder, *folder.parents) if (above / _MARK).is_file()), None)


@functools.lru_cache(4)
def _listing(root: Path) -> dict[str, tuple[int, int]]:
    return {
        str(PurePosixPath(line["name"])): (int(line["size"]), int(line["modified_ns"]))
        for line in read_lines(root / _LISTING)
    }


def _read_mark(mark: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(mark.read_text("utf-8"))
    return values


def _make_room(root: Path, limit_bytes: int, kept: Path) -> None:
    """Remove what was used least recently until the folder is no larger than it may be."""
    with open(root / ".lock", "a", opener=regular) as file:
        lock(file, wait=True)
        here = []
        for name in _listing(root):
            try:
                status = (root / name).stat()
            except OSError:
                continue
            here.append((status.st_atime_ns, status.st_size, root / name))
        total = sum(size for _, size, _ in here)
        for _, size, path in sorted(here):
            if total <= limit_bytes:
                return
            if path != kept:
                path.unlink(missing_ok=True)
                total -= size


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
