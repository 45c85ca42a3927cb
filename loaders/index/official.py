"""The lists that UCF101, HMDB51 and Kinetics come with."""

import math
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from fastdual.errors import InputError
from fastdual.loaders.index.listing import Entry
from fastdual.loaders.index.lists import Row, read_rows
from fastdual.loaders.index.paths import walk_videos


def read_kinetics(root: Path, path: Path) -> Iterator[Entry]:
    """Columns label, youtube_id, time_start, time_end, split; files may lie in any subfolder."""
    by_stem = {PurePosixPath(video).stem: video for video in walk_videos(root)}
    for row in read_rows(path):
        fields = row.fields
        video = fields.get("youtube_id", "")
        if not re.fullmatch(r"[\w-]+", video):
            raise InputError(f"{path}, line {row.line}: {video!r} is not a YouTube id")
        stems = [video]
        if fields.get("time_start") and fields.get("time_end"):
            start, end = (_seconds(path, row, name) for name in ("time_start", "time_end"))
            stems.insert(0, f"{video}_{start:06d}_{end:06d}")
        found = next((by_stem[stem] for stem in stems if stem in by_stem), f"{stems[0]}.mp4")
        yield Entry(found, fields.get("label") or None, video, split_in(row))


def _seconds(path: Path, row: Row, name: str) -> int:
    text = row.fields[name]
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < 1e6:
        raise InputError(
            f"{path}, line {row.line}: {name} is {text!r}; times must be numbers of seconds below "
            "1,000,000"
        )
    return int(seconds)


def split_in(row: Row) -> set[str]:
    """Return the split that a row names, if it does."""
    return {row.fields["split"]} if row.fields.get("split") else set()


def ucf101_classes(lists: Path) -> list[str]:
    """Return the names of UCF101's classes in the order of its classInd.txt."""
    return [line.split(maxsplit=1)[-1] for line in _lines(lists / "classInd.txt")]


def read_ucf101(root: Path, lists: Path) -> Iterator[Entry]:
    """classInd.txt, trainlist01.txt, testlist01.txt ...: splits "ucf101-1/train" and so on."""
    class_names = ucf101_classes(lists)
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


def read_hmdb51(root: Path, lists: Path) -> Iterator[Entry]:
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
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    return [line.strip() for line in text.split("\n") if line.strip()]
