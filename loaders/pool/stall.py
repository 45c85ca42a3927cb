"""Whether it is the machine or the storage that does not answer, and not a task."""

from __future__ import annotations

import logging
import time

from fastdual.loaders.pool.jobs import Job

_SECONDS_BETWEEN_LINES = 60.0

logger = logging.getLogger("fastdual.loaders")


class Stall:
    """The tasks in trouble since the last success of any.

    One may be to blame itself. Several at once are not, and neither is one that is known to be
    good: something that all of them need stalls. That is said, and so is its end.
    """

    def __init__(self) -> None:
        self._in_trouble: set[int] = set()
        self._since: float | None = None
        self._told = 0.0

    def note(self, job: Job, reason: str) -> bool:
        """Note a task that could not read, or waited; return whether everything stalls."""
        self._in_trouble.add(job.ticket)
        if len(self._in_trouble) < 2 and not job.patient:
            return False
        now = time.monotonic()
        if self._since is None or now - self._told >= _SECONDS_BETWEEN_LINES:
            self._since, self._told = self._since or now, now
            logger.warning(
                "the storage or the machine stalls: %d videos wait (%s); waiting for it too",
                len(self._in_trouble),
                reason,
            )
        return True

    def end(self) -> None:
        """Note a success."""
        self._in_trouble.clear()
        if self._since is not None:
            waited = time.monotonic() - self._since
            self._since = None
            logger.warning("the storage and the machine answer again, after %.0f s", waited)
