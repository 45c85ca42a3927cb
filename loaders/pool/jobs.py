"""The tasks on their way through the pool, shared by its callers and its thread under one lock."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from fastdual.errors import FailureError
from fastdual.loaders.pool.memory import Target


@dataclass(frozen=True)
class TaskFailure:
    """A task without a result: it raised, its worker died (twice), or it took too long."""

    reason: str
    kind: Literal["error", "crash", "timeout"]


@dataclass(eq=False)
class Job:
    """One task: pickled, with the array that it fills, and what became of it."""

    ticket: int
    task: bytes
    out: Target | None
    tries: int = 0
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
        self._tickets = itertools.count()

    def __len__(self) -> int:
        """Number of jobs in the queue."""
        return len(self._queue)

    # ---- for callers

    def add(self, task: bytes, out: Target | None) -> int:
        """Queue a task and return its ticket; raises ValueError once the pool is closed."""
        with self._condition:
            if self.closing:
                raise ValueError("the pool is closed")
            job = Job(next(self._tickets), task, out)
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
            while self._queue and self._queue[0].abandoned:
                self._queue.popleft()
            if not self._queue or most_bytes is not None and len(self._queue[0].task) > most_bytes:
                return None
            return self._queue.popleft()

    def put_back(self, jobs: Iterable[Job]) -> None:
        """Put jobs, in their order, in front of the queue."""
        with self._condition:
            self._queue.extendleft(reversed(list(jobs)))

    def finish(self, job: Job, result: Any) -> None:
        """Record a result and wake those who wait for it."""
        with self._condition:
            if not job.abandoned:
                job.result, job.done = result, True
                self._condition.notify_all()
