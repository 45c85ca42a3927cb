"""The tasks on their way through the pool, shared by its callers and its thread under one lock."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fastdual.errors import FailureError
from fastdual.loaders.pool.memory import Target


@dataclass(frozen=True)
class TaskFailure:
    """A task without a result.

    Attributes:
        reason: For people.
        kind: It raised; its worker died (twice); it took too long; what it read could not be read
            at that time; or nothing could, for so long that waiting has ended.
    """

    reason: str
    kind: Literal["error", "crash", "timeout", "passing", "stalled"]

    @property
    def may_pass(self) -> bool:
        """Whether the task may succeed at another time, for all that is known."""
        return self.kind != "error"


@dataclass(eq=False)
class Job:
    """One task: pickled, with the array that it fills, and what became of it.

    Attributes:
        patient: What fails in passing is never held against it.
        tries: How often it was begun.
        failures: How often it failed in passing while other tasks succeeded.
        waits_since: When it began to wait for a machine or storage that stalls.
    """

    ticket: int
    task: bytes
    out: Target | None
    patient: bool = False
    tries: int = 0
    failures: int = 0
    waits_since: float | None = None
    done: bool = False
    abandoned: bool = False
    result: Any = None


class Jobs:
    """The queue of tasks and their results.

    A job is queued, taken by the pool's thread, and finished or put back. `broken` holds the reason
    why no task can be run any more, and `closing` says that the pool is being closed.
    """

    def __init__(self) -> None:
        self.broken: str | None = None
        self.closing = False
        self._condition = threading.Condition()
        self._by_ticket: dict[int, Job] = {}
        self._queue: deque[Job] = deque()
        self._later: list[tuple[float, Job]] = []
        self._tickets = itertools.count()

    def __len__(self) -> int:
        """Number of jobs that may be taken now."""
        with self._condition:
            self._recall()
            return len(self._queue)

    # ---- for callers

    def add(self, task: bytes, out: Target | None, patient: bool = False) -> int:
        """Queue a task and return its ticket; raises ValueError once the pool is closed."""
        with self._condition:
            if self.closing:
                raise ValueError("the pool is closed")
            job = Job(next(self._tickets), task, out, patient)
            self._by_ticket[job.ticket] = job
            self._queue.append(job)
        return job.ticket

    def wait(self, ticket: int) -> Any:
        """Wait for a job and return its result; raises FailureError where none can come."""
        with self._condition:
            job = self._by_ticket[ticket]
            self._condition.wait_for(lambda: job.done or self.broken or self.closing)
            if job.done:
                return job.result
            raise FailureError(self.broken or "the worker pool was closed before its result came")

    def wait_for_room(self, tickets: Sequence[int], most_queued: int) -> bool:
        """Wait until all jobs are done, or fewer than so many are queued.

        Returns:
            Whether jobs are awaited still, and more may be queued meanwhile.
        """
        with self._condition:
            jobs = [self._by_ticket[ticket] for ticket in tickets]

            def awaited() -> bool:
                ended = self.broken is not None or self.closing
                return not ended and not all(job.done for job in jobs)

            self._condition.wait_for(lambda: not awaited() or len(self._queue) < most_queued)
            return awaited()

    def release(self, ticket: int) -> None:
        """Forget a job and its result; a queued one is not run."""
        with self._condition:
            job = self._by_ticket.pop(ticket, None)
            if job is not None:
                job.abandoned, job.result = True, None

    def stop(self, broken: str | None = None) -> None:
        """Let nobody wait any longer: the pool is closed, or broken for a reason."""
        with self._condition:
            self.broken, self.closing = broken or self.broken, self.closing or broken is None
            self._condition.notify_all()

    # ---- for the pool's thread

    def take(self, most_bytes: int | None = None) -> Job | None:
        """Return the next job that is still wanted; None if its task is longer than that."""
        with self._condition:
            self._recall()
            while self._queue and self._queue[0].abandoned:
                self._queue.popleft()
            if not self._queue or most_bytes is not None and len(self._queue[0].task) > most_bytes:
                return None
            self._condition.notify_all()  # for those that wait for room
            return self._queue.popleft()

    def put_back(self, jobs: Iterable[Job]) -> None:
        """Put jobs, in their order, in front of the queue."""
        with self._condition:
            self._queue.extendleft(reversed(list(jobs)))

    def put_back_later(self, job: Job, when: float) -> None:
        """Put a job in front of the queue when the monotonic clock says so."""
        with self._condition:
            self._later.append((when, job))

    def next_recall(self) -> float | None:
        """Return when the next job comes back; None if none does."""
        with self._condition:
            return min((when for when, _ in self._later), default=None)

    def _recall(self) -> None:
        now = time.monotonic()
        due = [job for when, job in self._later if when <= now]
        self._later = [(when, job) for when, job in self._later if when > now]
        self._queue.extendleft(reversed(due))

    def finish(self, job: Job, result: Any) -> None:
        """Record a result and wake those who wait for it."""
        with self._condition:
            if not job.abandoned:
                job.result, job.done = result, True
                self._condition.notify_all()
