"""What a list says of a data set before a video is opened."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from fastdual.errors import InputError


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


def merge(lists: Path, entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries by path; one listed again may add a split, but no other label or group.

    Raises:
        InputError: A video is listed with two labels or groups.
    """
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


def class_names(entries: Iterable[Entry]) -> tuple[str, ...]:
    """Return the names of the classes in the order of their numbers: 1, 2, 10, not 1, 10, 2."""
    names = {entry.label for entry in entries if entry.label is not None}
    are_numbers = all(name.isascii() and name.isdecimal() for name in names)
    return tuple(sorted(names, key=lambda name: (int(name), name) if are_numbers else (0, name)))


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
                    "was trained on: correct the list, or index it with fastdual index "
                    "--allow-shared-groups"
                )
