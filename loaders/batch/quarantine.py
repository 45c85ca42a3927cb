"""What happens to a video that fails while the run goes on: named once, written down, counted."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from fastdual.errors import FailureError, why_not_written
from fastdual.loaders.index.table import VideoIndex

FAILURE_LIMIT = 0.01
ALWAYS_TOLERATED = 4

logger = logging.getLogger("fastdual.loaders")


class Quarantine:
    """The videos that failed in this run.

    The run stops when more than `FAILURE_LIMIT` of the data's videos have failed, but never for the
    first `ALWAYS_TOLERATED`: one bad file of twenty is no reason to stop. With a file, the videos
    that other processes of the run wrote there count too, and are not named twice.

    Args:
        index: names the videos.
        num_videos: how many videos the run draws from.
        path: JSON lines are appended here, one a video; None keeps no file.
    """

    def __init__(self, index: VideoIndex, num_videos: int, path: Path | None) -> None:
        self._index, self._path = index, path
        self._limit = max(ALWAYS_TOLERATED, int(FAILURE_LIMIT * num_videos))
        self._num_videos = num_videos
        self._failed: set[str] = set()

    def add(self, video: int, reason: str) -> None:
        """Record that a video failed.

        Raises:
            FailureError: too many have, or the file cannot be written.
        """
        name = self._index.paths[video]
        if name in self._failed:
            return
        self._failed |= self._written()
        if name not in self._failed:
            self._failed.add(name)
            where = self._index.path(video)
            logger.warning("cannot use the video %s: %s; another takes its place", where, reason)
            self._write({"video": int(video), "path": name, "reason": reason})
        if len(self._failed) > self._limit:
            raise FailureError(
                f"{len(self._failed)} of {self._num_videos} videos failed, more than "
                f"{self._limit} are not tolerated (last: {name}: {reason}); build the index again"
                + (f", see {self._path}" if self._path else "")
            )

    def _written(self) -> set[str]:
        if self._path is None or not self._path.exists():
            return set()
        names = set()
        for line in self._path.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            try:
                names.add(str(json.loads(line)["path"]))
            except (ValueError, KeyError, TypeError):
                continue  # a line that another process is still writing, or a stranger's
        return names

    def _write(self, record: dict[str, int | str]) -> None:
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # One write of one line: appended whole, even where several processes share the file.
            with self._path.open("ab", buffering=0) as file:
                file.write(json.dumps(record).encode() + b"\n")
        except OSError as error:
            raise FailureError(
                f"cannot write the quarantine list {self._path}: {why_not_written(error)}"
            ) from error
