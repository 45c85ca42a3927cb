"""Lists of videos as text, in the encodings, separators and headings that people have.

    path,label,group,split        the columns by name, in any order; all but path may be missing
    run/a.mp4,run,g1,train

    run/a.mp4 3                   or no heading: a path and a label, as other projects write them

Commas, semicolons or tabs separate fields (quotes protect them), blanks those of a list without a
heading. Other headings, or numbers where there is none, are named: path=file,label=3.
"""

import csv
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from fastdual.errors import InputError, is_number
from fastdual.loaders.index.paths import is_video

FIELDS = ("path", "label", "group", "split")
Columns = Mapping[str, str]
"""Of each field that is not headed by its own name: the heading, or the column's number from 1."""

_MAX_LIST_BYTES = 1 << 30
_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


class Row(NamedTuple):
    """A line of a list: its number, and its fields by their names."""

    line: int
    fields: Mapping[str, str]


def parse_columns(text: str) -> dict[str, str]:
    """Return what `--columns path=file,label=class` says.

    Raises:
        InputError: It is not like that, or names a field that there is not.
    """
    columns: dict[str, str] = {}
    for part in text.split(","):
        name, _, heading = (word.strip() for word in part.partition("="))
        if name not in FIELDS or not heading or name in columns:
            raise InputError(
                f"--columns {text!r}: name the headings of the list as path=file,label=class; the "
                f"fields are {', '.join(FIELDS)}"
            )
        columns[name] = heading
    return columns


def read_rows(path: Path, columns: Columns | None = None) -> Iterator[Row]:
    """Yield the rows of a list.

    Args:
        path: The file.
        columns: Where its headings are other than ours.

    Raises:
        InputError: It is not such a list; names the file, the line and the remedy.
    """
    encoding = _encoding_of(path)
    try:
        with open(path, encoding=encoding, newline="", errors="surrogateescape") as file:
            yield from _rows(file, path, columns or {})
    except (OSError, UnicodeError) as error:
        raise InputError(f"{path} cannot be read as a list of videos: {error}") from error


def _encoding_of(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            head, size = file.read(4096), path.stat().st_size
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if size > _MAX_LIST_BYTES:
        raise InputError(f"{path} is larger than 1 GiB: not a list of videos")
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    if b"\0" in head:
        for first, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
            if not any(head[first::2]) and any(head[1 - first :: 2]):
                return encoding
        raise InputError(
            f"{path} is not text: name a folder, a list of videos (columns path,label,group,"
            "split), an index, a pack or a video"
        )
    return "utf-8"


def _rows(file: Iterator[str], path: Path, columns: Columns) -> Iterator[Row]:
    lines = _numbered(file)
    number, first = next(lines, (0, ""))
    delimiter = next((mark for mark in "\t,;" if mark in first), None)
    words = first.split() if delimiter is None else next(csv.reader([first], delimiter=delimiter))
    headings = [word.strip().lower() for word in words]
    if delimiter is None and len(headings) > 1 and "path" in headings:
        delimiter = " "
    if _has_heading(first, words, columns):
        places = _places(path, headings, columns)
    else:
        places = _places_without_heading(path, words, columns)
        if delimiter is None:
            yield from _plain(first, number, lines, places)
            return
        yield _row(number, words, places)
    # A single column is quoted like many.
    reader = csv.reader((text for _, text in lines), delimiter=delimiter or ",", strict=True)
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                yield _row(number + reader.line_num, fields, places)
    except csv.Error as error:
        line = number + reader.line_num
        raise InputError(f"{path}, line {line}: cannot be read as a CSV file: {error}") from error


def _numbered(file: Iterator[str]) -> Iterator[tuple[int, str]]:
    """Yield the lines with their numbers, from the first that is not empty on."""
    begun = False
    for number, text in enumerate(file, start=1):
        begun = begun or bool(text.strip())
        if begun:
            yield number, text


def _has_heading(line: str, words: list[str], columns: Columns) -> bool:
    if columns:
        return not all(is_number(place) for place in columns.values())
    path_of_pair = line.rsplit(None, 1)[:1]  # "my film.mp4 3"
    return not any(_names_video(text) for text in (line, *words[:1], *path_of_pair))


def _names_video(text: str) -> bool:
    return is_video(PurePosixPath(text.strip()))


def _places(path: Path, headings: list[str], columns: Columns) -> dict[str, int]:
    """Return the number of each column, by the field that it holds."""
    places = {name: number for number, name in enumerate(headings) if name}
    for name, heading in columns.items():
        if heading.lower() not in headings:
            raise InputError(
                f"--columns {name}={heading}: {path} has no column {heading!r} (columns: "
                f"{', '.join(headings)})"
            )
        places[name] = headings.index(heading.lower())
    if headings and "path" not in places and "youtube_id" not in places:
        first = headings[0] or "NAME"
        raise InputError(
            f"{path} has no column 'path' (columns: {', '.join(headings) or 'none'}): a list has "
            "the columns path,label,group,split, or a path and a label on each line; where it has "
            f"others, name them: fastdual index {path} -o x.h5 --columns path={first}"
        )
    return places


def _places_without_heading(path: Path, words: list[str], columns: Columns) -> dict[str, int]:
    if columns:
        return {name: int(place) - 1 for name, place in columns.items() if int(place) > 0}
    if len(words) > 2 and not any(map(_names_video, (" ".join(words), " ".join(words[:-1])))):
        raise InputError(
            f"{path} has {len(words)} fields on a line and no heading: say which is which, for "
            f"instance fastdual index {path} -o x.h5 --columns path=1,label={len(words)}"
        )
    return {"path": 0, "label": 1}


def _plain(
    first: str, number: int, lines: Iterator[tuple[int, str]], places: Mapping[str, int]
) -> Iterator[Row]:
    """Yield lines `path label`, separated by blanks; the path may hold blanks too."""
    is_pair = places == {"path": 0, "label": 1}
    for line, text in itertools.chain([(number, first)], lines):
        text = text.strip()
        if not text:
            continue
        if is_pair:
            words = [text] if _names_video(text) else text.rsplit(None, 1)
        else:
            words = text.split()
        yield _row(line, words, places)


def _row(line: int, fields: list[str], places: Mapping[str, int]) -> Row:
    return Row(line, {name: fields[at].strip() for name, at in places.items() if at < len(fields)})
