"""Videos that an index or its data lack: set aside with a reason, counted, and too many refused."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from fastdual.errors import InputError
from fastdual.loaders.index.table import VideoIndex
from fastdual.loaders.remote import stat

MISSING = "the file is missing"
CHANGED = "the file was changed after it was indexed"
_MOST_LEFT_OUT = 0.1
_CHECKED_FILES = 20_000  # files looked for when an index is opened; of more, an even sample
_SHOWN_REASONS = 3


def look_for_files(index: VideoIndex) -> dict[int, str]:
    """Return what is wrong with the files of an index, by video (of very many, in a sample).

    Only presence and size are looked at; contents are compared when a video is read.
    """
    wrong = {}
    for video in range(0, len(index), -(-len(index) // _CHECKED_FILES)):
        try:
            if stat(index.path(video))[0] != index.file_bytes[video]:
                wrong[video] = CHANGED
        except FileNotFoundError:
            wrong[video] = MISSING
        except OSError as error:
            wrong[video] = f"the file cannot be read now: {error.strerror}"
    return wrong


def without_missing(index: VideoIndex, data: Path) -> VideoIndex:
    """Return an index without the videos whose files are gone or changed; they are quarantined.

    Raises:
        InputError: None is left; names the first one and the remedy.
    """
    wrong = look_for_files(index)
    if not wrong:
        return index
    rows = np.setdiff1d(np.arange(len(index)), np.array(sorted(wrong)))
    if not len(rows):
        first = min(wrong)
        raise InputError(
            f"none of the {len(index)} videos of {data} can be used (first: {index.path(first)}: "
            f"{wrong[first]}): if they were moved, name the new folder with --root; if they were "
            f"changed, index them again"
        )
    found = tuple((index.paths[video], reason) for video, reason in sorted(wrong.items()))
    # A stamp that no file has: the next build looks at the file.
    stamps = np.concatenate([index.quarantine_stamps, np.zeros((len(found), 2), np.int64)])
    left = index.take(rows)
    return replace(left, quarantine=(*index.quarantine, *found), quarantine_stamps=stamps)


def refuse_many_missing(index: VideoIndex, data: Path) -> None:
    """Refuse to leave out more than a tenth of the data, and more than one video.

    Raises:
        InputError: Counts the reasons, and names the remedy.
    """
    total = len(index) + len(index.quarantine)
    if len(index.quarantine) > max(1, _MOST_LEFT_OUT * total):
        raise InputError(
            f"{data}: {describe_left_out(index)}. Bring or mend them (moved ones: --root), or go "
            "on with the rest: --allow-missing"
        )


def describe_left_out(index: VideoIndex) -> str | None:
    """Return how many videos are left out and why, for people; None if none is."""
    if not index.quarantine:
        return None
    counts = Counter(reason for _, reason in index.quarantine)
    first = {reason: path for path, reason in reversed(index.quarantine)}
    shown = [
        f"{count} {reason} ({first[reason]}{', ...' if count > 1 else ''})"
        for reason, count in counts.most_common(_SHOWN_REASONS)
    ]
    more = len(index.quarantine) - sum(n for _, n in counts.most_common(_SHOWN_REASONS))
    rest = f"; {more} for other reasons" if more else ""
    total = len(index) + len(index.quarantine)
    return f"{len(index.quarantine)} of {total} videos are left out: {'; '.join(shown)}{rest}"
