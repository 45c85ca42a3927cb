"""Which videos a data set has, with their labels, groups and splits: one reader per layout.

Nothing is opened here but lists. Paths that come out of a list are text from somebody else: they
must stay inside the root.
"""

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

from fastdual.errors import InputError
from fastdual.loaders.index.paths import VIDEO_SUFFIXES, refuse_special, safe_relative, walk_videos

Kind = Literal["auto", "folder", "flat", "csv", "kinetics", "ucf101", "hmdb51"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_SPLIT_FOLDERS = {"train", "val", "valid", "validation", "test"}
_MAX_LIST_BYTES = 1 << 30


@dataclass
class Entry:
    """One video of a list: label None means unlabelled, group "" means unknown."""

    path: str
    label: str | None = None
    group: str = ""
    splits: set[str] = field(default_factory=set)


@dataclass
class Listing:
    """Everything known about a data set before a video is opened; entries are sorted by path."""

    root: Path
    entries: list[Entry]
    class_names: tuple[str, ...]


def list_videos(
    source: Path,
    *,
    kind: Kind = "auto",
    root: Path | None = None,
    annotations: Path | None = None,
) -> Listing:
    """List the videos of a folder or of a CSV file.

    Args:
        source: The folder with the videos, or a CSV file that lists them.
        kind: Layout; "auto" looks at `source` and `annotations`.
        root: Folder that the paths of a CSV file are relative to; default: the file's folder.
        annotations: Official lists: the folder of UCF101's or HMDB51's split files, a Kinetics CSV
            file, or any CSV file.

    Raises:
        InputError: A list cannot be read or does not fit, or there is no video.
    """
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
    kind = _kind_of(lists, kind)
    entries = _merge(lists, _READERS[kind](folder, lists))
    if not entries:
        raise InputError(_why_empty(folder, lists))
    names = {entry.label for entry in entries if entry.label is not None}
    class_names = _ucf101_classes(lists) if kind == "ucf101" else sorted(names)
    return Listing(folder, entries, tuple(class_names))


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
    columns = next(_rows(lists), {})
    return "kinetics" if "youtube_id" in columns else "csv"


def _merge(lists: Path, entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries by path; one listed again may add a split, but no other label or group."""
    merged: dict[str, Entry] = {}
    for entry in entries:
        known = merged.setdefault(entry.path, entry)
        if (known.label, known.group) != (entry.label, entry.group):
            raise InputError(
                f"{lists} lists {entry.path} twice, once as {known.label!r} (group "
                f"{known.group!r}) and once as {entry.label!r} (group {entry.group!r})"
            )
        known.splits |= entry.splits
    return sorted(merged.values(), key=lambda entry: entry.path)


def _why_empty(folder: Path, lists: Path) -> str:
    if lists.is_file():
        return f"{lists} lists no video: it needs columns path,label,group,split"
    return f"no video in {folder}: looked for files ending in {' '.join(sorted(VIDEO_SUFFIXES))}"


# ---- folders


def _read_folder(root: Path, _: Path) -> Iterator[Entry]:
    """CLASS/video, or SPLIT/CLASS/video where the top folders are train, val, test."""
    paths = list(walk_videos(root))
    top = {PurePosixPath(path).parts[0] for path in paths}
    has_splits = bool(top) and top <= _SPLIT_FOLDERS
    for path in paths:
        folders = PurePosixPath(path).parts[:-1]
        splits = {folders[0]} if has_splits else set()
        folders = folders[1:] if has_splits else folders
        yield Entry(path, folders[0] if folders else None, splits=splits)


def _read_flat_folder(root: Path, _: Path) -> Iterator[Entry]:
    return (Entry(path) for path in walk_videos(root))


# ---- CSV files


def _rows(path: Path) -> Iterator[dict[str, str]]:
    if path.stat().st_size > _MAX_LIST_BYTES:
        raise InputError(f"{path} is larger than 1 GiB: not a list of videos")
    try:
        with open(path, encoding="utf-8-sig", newline="", errors="surrogateescape") as file:
            for row in csv.DictReader(file, strict=True):
                yield {k.strip(): (v or "").strip() for k, v in row.items() if isinstance(k, str)}
    except (OSError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a CSV file: {error}") from error


def _read_csv(root: Path, path: Path) -> Iterator[Entry]:
    """Columns path, label, group, split; all but path may be missing or empty."""
    for number, row in enumerate(_rows(path), start=2):
        if "path" not in row:
            raise InputError(f"{path} has no column 'path' (columns: {', '.join(row) or 'none'})")
        try:
            relative = safe_relative(row["path"], root)
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error}") from None
        yield Entry(relative, row.get("label") or None, row.get("group", ""), _split_in(row))


def _read_kinetics(root: Path, path: Path) -> Iterator[Entry]:
    """Columns label, youtube_id, time_start, time_end, split; files may lie in any subfolder."""
    by_stem = {PurePosixPath(video).stem: video for video in walk_videos(root)}
    for number, row in enumerate(_rows(path), start=2):
        video = row.get("youtube_id", "")
        if not re.fullmatch(r"[\w-]+", video):
            raise InputError(f"{path}, line {number}: {video!r} is not a YouTube id")
        stems = [video]
        if row.get("time_start") and row.get("time_end"):
            try:
                start, end = int(float(row["time_start"])), int(float(row["time_end"]))
            except ValueError:
                raise InputError(f"{path}, line {number}: times must be numbers") from None
            stems.insert(0, f"{video}_{start:06d}_{end:06d}")
        found = next((by_stem[stem] for stem in stems if stem in by_stem), f"{stems[0]}.mp4")
        yield Entry(found, row.get("label") or None, video, _split_in(row))


def _split_in(row: dict[str, str]) -> set[str]:
    return {row["split"]} if row.get("split") else set()


# ---- official split files


def _ucf101_classes(lists: Path) -> list[str]:
    return [line.split(maxsplit=1)[1] for line in _lines(lists / "classInd.txt")]


def _read_ucf101(root: Path, lists: Path) -> Iterator[Entry]:
    """classInd.txt, trainlist01.txt, testlist01.txt ...: splits "ucf101-1/train" and so on."""
    class_names = _ucf101_classes(lists)
    present = {PurePosixPath(path).name: path for path in walk_videos(root)}
    for path in sorted(lists.glob("*list0?.txt")):
        match = re.fullmatch(r"(train|test)list0(\d)\.txt", path.name)
        if match is None:
            continue
        for line in _lines(path):
            listed = PurePosixPath(line.split()[0])
            parts = re.fullmatch(r"v_(\w+)_(g\d+)_c\d+\.avi", listed.name)
            if parts is None or listed.parts[0] not in class_names:
                raise InputError(f"{path}: {line!r} is not a line of a UCF101 list")
            found = present.get(listed.name, str(listed))
            yield Entry(found, listed.parts[0], parts[2], {f"ucf101-{match[2]}/{match[1]}"})


def _read_hmdb51(root: Path, lists: Path) -> Iterator[Entry]:
    """CLASS_test_splitN.txt with 1 = train, 2 = test, 0 = neither: splits "hmdb51-1/train" ..."""
    present = {PurePosixPath(path).name: path for path in walk_videos(root)}
    for path in sorted(lists.glob("*_test_split?.txt")):
        label, _, number = path.stem.rpartition("_test_split")
        for line in _lines(path):
            name, _, use = line.rpartition(" ")
            if use not in ("0", "1", "2") or "/" in name or not name:
                raise InputError(f"{path}: {line!r} is not a line of an HMDB51 list")
            splits = {"1": {f"hmdb51-{number}/train"}, "2": {f"hmdb51-{number}/test"}}
            yield Entry(present.get(name, f"{label}/{name}"), label, "", splits.get(use, set()))


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    return [line.strip() for line in text.split("\n") if line.strip()]


_READERS: dict[Kind, Callable[[Path, Path], Iterator[Entry]]] = {
    "folder": _read_folder,
    "flat": _read_flat_folder,
    "csv": _read_csv,
    "kinetics": _read_kinetics,
    "ucf101": _read_ucf101,
    "hmdb51": _read_hmdb51,
}


def refuse_shared_groups(listing: Listing) -> None:
    """Refuse splits that have one group, or one video, on both sides ("a/train" against "a/test").

    Raises:
        InputError: Names the splits, the group and the remedy.
    """
    owner: dict[tuple[str, str], str] = {}
    for entry in listing.entries:
        for split in entry.splits:
            family = split.rpartition("/")[0]
            key = (family, f"group {entry.group!r}" if entry.group else f"video {entry.path}")
            first = owner.setdefault(key, split)
            if first != split:
                raise InputError(
                    f"{key[1]} is in the splits {first!r} and {split!r}, so a test would see what "
                    "was trained on: correct the list, or pass --allow-shared-groups"
                )
