"""Which videos a data set has, with their labels, groups and splits: one reader per layout.

Nothing is opened here but lists. Paths that come out of a list are text from somebody else: they
must stay inside the root.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, get_args

from fastdual.errors import InputError
from fastdual.loaders.files import refuse_special
from fastdual.loaders.index.folders import read_classes, read_flat, read_folder
from fastdual.loaders.index.listing import Entry, Listing, class_names, merge
from fastdual.loaders.index.lists import Columns, read_rows
from fastdual.loaders.index.official import (
    read_hmdb51,
    read_kinetics,
    read_ucf101,
    split_in,
    ucf101_classes,
)
from fastdual.loaders.index.paths import (
    VIDEO_SUFFIXES,
    cache_folder,
    is_video,
    safe_relative,
)
from fastdual.loaders.remote import address_of, mount

Kind = Literal["auto", "folder", "classes", "flat", "csv", "kinetics", "ucf101", "hmdb51"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def list_videos(
    source: Path,
    *,
    kind: Kind = "auto",
    root: Path | None = None,
    annotations: Path | None = None,
    columns: Columns | None = None,
) -> Listing:
    """List the videos of a folder or of a list, or one video alone.

    Args:
        source: The folder with the videos, a list of them, or a video.
        kind: Layout; "auto" looks at `source` and `annotations`.
        root: Folder that the paths of a list are relative to; default: the file's folder.
        annotations: Official lists: the folder of UCF101's or HMDB51's split files, a Kinetics CSV
            file, or any list.
        columns: Where the headings of a list are other than ours, see `lists`.

    Raises:
        InputError: A list cannot be read or does not fit, or there is no video.
    """
    source = local_folder(source)
    if not source.exists():
        raise InputError(f"{source} does not exist: name a folder of videos or a CSV file")
    lists = annotations if annotations is not None else source
    if not lists.exists():
        raise InputError(f"--annotations {lists} does not exist")
    refuse_special(source)
    refuse_special(lists)
    folder = root if root is not None else source if source.is_dir() else source.parent
    if not folder.is_dir():
        raise InputError(f"--root {folder} is not a folder")
    folder = folder.absolute()
    if kind in ("auto", "flat") and lists.is_file() and is_video(lists):
        return Listing(folder, [Entry(safe_relative(str(lists.absolute()), folder))], ())
    kind = "csv" if columns and kind == "auto" and lists.is_file() else _kind_of(lists, kind)
    if columns and kind != "csv":
        raise InputError(f"--columns names the headings of a CSV file, but {lists} is none")
    reader = _READERS.get(kind)
    found = _read_csv(folder, lists, columns) if reader is None else reader(folder, lists)
    entries = merge(lists, found)
    if not entries:
        raise InputError(_why_empty(folder, lists))
    names = tuple(ucf101_classes(lists)) if kind == "ucf101" else class_names(entries)
    return Listing(folder, entries, names)


def local_folder(source: Path, *, limit_bytes: int | None = None) -> Path:
    """Return the folder that stands for an address, and any other path as it is.

    Args:
        source: A path, or an address such as s3://bucket/videos.
        limit_bytes: See `remote.mount`.

    Raises:
        InputError, FailureError: As `remote.mount`.
    """
    address = address_of(source)
    return (
        source
        if address is None
        else mount(address, cache_folder("remote"), limit_bytes=limit_bytes)
    )


def _kind_of(lists: Path, kind: Kind) -> Kind:
    """Return the layout of the lists; raise InputError where it cannot be the one that is named."""
    if kind == "auto":
        return _detect(lists)
    wants_file = kind in ("csv", "kinetics")
    if wants_file == lists.is_dir():
        wanted, got = ("a CSV file", "a folder") if wants_file else ("a folder", "a file")
        raise InputError(f"kind {kind} reads {wanted}, but {lists} is {got}")
    return kind


def _detect(lists: Path) -> Kind:
    if lists.is_dir():
        if (lists / "classInd.txt").is_file():
            return "ucf101"
        return "hmdb51" if any(lists.glob("*_test_split1.txt")) else "folder"
    first = next(read_rows(lists), None)
    return "kinetics" if first is not None and "youtube_id" in first.fields else "csv"


def _why_empty(folder: Path, lists: Path) -> str:
    if lists.is_file():
        return f"{lists} lists no video: it needs columns path,label,group,split"
    return f"no video in {folder}: looked for files ending in {' '.join(sorted(VIDEO_SUFFIXES))}"


def _read_csv(root: Path, path: Path, columns: Columns | None) -> Iterator[Entry]:
    """Columns path, label, group, split; all but path may be missing or empty."""
    for row in read_rows(path, columns):
        try:
            relative = safe_relative(row.fields.get("path", ""), root)
        except InputError as error:
            raise InputError(f"{path}, line {row.line}: {error}") from None
        label, group = row.fields.get("label") or None, row.fields.get("group", "")
        yield Entry(relative, label, group, split_in(row))


_READERS: dict[Kind, Callable[[Path, Path], Iterator[Entry]]] = {
    "folder": read_folder,
    "classes": read_classes,
    "flat": read_flat,
    "kinetics": read_kinetics,
    "ucf101": read_ucf101,
    "hmdb51": read_hmdb51,
}
