"""Videos that fail during a run: each is named once, written down and counted."""

from __future__ import annotations

import logging
from pathlib import Path

from fastdual.errors import FailureError
from fastdual.loaders.files import append_line, make_folder_of, read_lines
from fastdual.loaders.index.table import VideoIndex

FAILURE_LIMIT = 0.01
ALWAYS_TOLERATED = 4
_WHAT = "the quarantine list"

logger = logging.getLogger("fastdual.loaders")


def most_tolerated(num_videos: int) -> int:
    """Return how many of so many videos may fail before it is no longer the videos' fault."""
    return max(ALWAYS_TOLERATED, int(FAILURE_LIMIT * num_videos))


class Quarantine:
    """The videos that failed in this run.

    The run stops when more than `FAILURE_LIMIT` of the data's videos have failed, but not for the
    first `ALWAYS_TOLERATED`: one bad file of twenty is no reason to stop. With a file, the videos
    that other processes of the run wrote there count too, and are not named twice.

    Args:
        index: The videos.
        num_videos: Number of videos that the run draws from.
        path: JSON lines are appended here, one per video; None keeps no file.
    """

    def __init__(self, index: VideoIndex, num_videos: int, path: Path | None) -> None:
        self._index, self._path = index, path
        self._limit = most_tolerated(num_videos)
        self._num_videos = num_videos
        self._failed: set[str] = set()

    def add(self, video: int, reason: str) -> None:
        """Record that a video failed.

        Raises:
            FailureError: Too many have failed, or the file cannot be written.
        """
        name = self._index.paths[video]
        if name in self._failed:
            return
        self._failed |= self._written()
        if name not in self._failed:
            self._failed.add(name)
            where = self._index.path(video)
            logger.warning("cannot use the video %s: %s; another takes its place", where, reason)
            if self._path is not None:
                make_folder_of(self._path, _WHAT)
                record = {"video": int(video), "path": name, "reason": reason}
                append_line(self._path, record, _WHAT)
        if len(self._failed) > self._limit:
            raise FailureError(
                f"{len(self._failed)} of {self._num_videos} videos failed, more than "
                f"{self._limit} are not tolerated (last: {name}: {reason}): bring the files back "
                "as they were indexed and start again"
                + (f", see {self._path}" if self._path else "")
            )

    def _written(self) -> set[str]:
        """Names in the file, which other processes of the run may write too."""
        records = [] if self._path is None else read_lines(self._path)
        return {str(record["path"]) for record in records if "path" in record}
