"""What the folders of a data set say: classes, splits, both or neither.

    CLASS/video     SPLIT/CLASS/video     CLASS/SPLIT/video     NAME/SPLIT/CLASS/video

A folder called train, test or the like is a split where all folders beside it are; what can be read
in two ways is refused, by name.
"""

import logging
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from fastdual.errors import InputError
from fastdual.loaders.index.listing import Entry
from fastdual.loaders.index.paths import walk_videos

_SPLITS = {"training": "train", "testing": "test"}
_SPLITS |= {name: name for name in ("train", "val", "valid", "validation", "test")}
_SHOWN = 5

logger = logging.getLogger("fastdual.loaders")

Folders = tuple[str, ...]
"""The folders that a video lies in, from the root down."""


def read_folder(root: Path, _: Path) -> Iterator[Entry]:
    """Yield the videos under a folder with their classes and splits.

    Raises:
        InputError: The names of the folders can be read in two ways.
    """
    videos = [(path, PurePosixPath(path).parts[:-1]) for path in walk_videos(root)]
    of_split, of_class = _levels(root, [folders for _, folders in videos])
    for path, folders in videos:
        label = folders[of_class] if len(folders) > of_class else None
        if of_split is None:
            yield Entry(path, label)
        elif folders:
            yield Entry(path, label, splits={_SPLITS[folders[of_split].lower()]})
        else:
            logger.warning("%s lies beside the splits of %s: it is in none of them", path, root)
            yield Entry(path)


def read_classes(root: Path, _: Path) -> Iterator[Entry]:
    """Yield the videos under a folder; the first folder is the class, whatever it is called."""
    for path in walk_videos(root):
        folders = PurePosixPath(path).parts[:-1]
        yield Entry(path, folders[0] if folders else None)


def read_flat(root: Path, _: Path) -> Iterator[Entry]:
    """Yield the videos under a folder, without classes."""
    return (Entry(path) for path in walk_videos(root))


def _levels(root: Path, videos: list[Folders]) -> tuple[int | None, int]:
    """Return how deep the folders of splits lie, None without any, and how deep those of classes.

    Raises:
        InputError: Folders of splits and others lie side by side.
    """
    if _are_splits(root, 0, [folders for folders in videos if folders]):
        return 0, 1
    if all(videos) and _are_splits(root, 1, videos):
        is_single = len({folders[0] for folders in videos}) == 1
        return 1, 2 if is_single and any(len(folders) > 2 for folders in videos) else 0
    return None, 0


def _are_splits(root: Path, level: int, videos: list[Folders]) -> bool:
    """Say whether the folders at a level are splits; refuse those of which only some can be."""
    names = {folders[level] if len(folders) > level else "" for folders in videos}
    splits = {name for name in names if name.lower() in _SPLITS}
    if not splits or splits == names:
        return bool(splits)
    # A single one may be a class: a train is a vehicle. But classes of its own make it a split.
    holds_folders = any(f[level] in splits for f in videos if len(f) > level + 1)
    if len(splits) == 1 and not holds_folders:
        return False
    others = sorted(name or "videos" for name in names - splits)
    raise InputError(
        f"{root}: the folders {', '.join(sorted(splits))} look like splits, but beside them lie "
        f"{', '.join(others[:_SHOWN])}{', ...' if len(others) > _SHOWN else ''}: move those away, "
        f"or say that all are classes with fastdual index {root} -o x.h5 --kind classes"
    )
