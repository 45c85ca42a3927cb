"""Worker processes that may crash or hang without taking the run with them.

A corrupt video can kill a decoder or keep it busy forever, so every file is touched in a child
process. One thread of the parent hands out tasks and collects results, so that workers stay busy
while the caller does something else. The life of a worker:

    start --"ready"--> idle --a task--> busy --its result--> idle ...
      |                                  |
      | dies, or is not ready in time    +-- dies: its task is run again on another worker; the
      v                                  |   second time (if killed from outside: the tenth) the
    counted: after too many failed       |   task fails as a "crash"
    starts in a row the pool is broken   +-- computes too long: its task fails as a "timeout"
                                         +-- waits too long, or what it reads cannot be read now:
                                             tried again after a pause

What cannot be read, and a task that waits without computing, says nothing about the task. It fails
only after some tries while other tasks succeed. Where several are in that trouble at once, or one
that is known to be good, the machine or the storage stalls: the pool says so and waits.

A worker that died or took too long is killed and forgotten; while there are tasks for it, another
one is started. Tasks that were sent ahead to it go back to the front of the queue.
"""

from __future__ import annotations

import contextlib
import pickle
import socket
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from multiprocessing.connection import wait
from typing import Any, Literal, Self

from fastdual.loaders.pool.channel import ChannelClosed
from fastdual.loaders.pool.handle import START_SECONDS, Worker, start_worker
from fastdual.loaders.pool.jobs import Job, Jobs, TaskFailure
from fastdual.loaders.pool.memory import Target
from fastdual.loaders.pool.stall import Stall

_MAX_FAILED_STARTS = 3
_MAX_KILLED_STARTS = 30  # on a busy machine a worker takes seconds to start, and may be killed then
_MAX_TRIES = 2  # a crash is tried once more, on a fresh worker
_MAX_TRIES_KILLED = 10  # a signal from outside is not the task's fault
_MAX_FAILURES = 4  # of a task that cannot read, or waits, while others succeed
_PAUSES = (1.0, 4.0, 10.0, 30.0)  # seconds before each further try
_LONGEST_STALL_SECONDS = 1800.0
_BUSY_SHARE = 0.25  # of its time that a task must have computed for "too long" to be its own fault
_FROM_OUTSIDE = ("SIGKILL", "SIGTERM")
_MOST_BYTES_AHEAD = 1 << 14  # of a task that waits in a socket: it must fit, or sending blocks


class ProcessPool:
    """Run `function(*setup, task)` in `num_workers` child processes.

    A task may be given an array in shared memory as the last argument, to be filled; what the
    function returns is pickled. Use as a context manager or call `close`.

    Args:
        function: "package.module:name", imported in the child.
        num_workers: Child processes.
        timeout_seconds: A task that runs longer fails with kind "timeout" and costs its worker.
        setup: Leading arguments of every call.
        send_ahead: Send a worker its next task while it is at another, so that it never waits for
            us. That task cannot go to another worker then: for short tasks of similar length.

    Attributes:
        idle_seconds: Time that workers have waited for the tasks that are done, of all together.

    Raises:
        ValueError: No workers, or no time.
    """

    def __init__(
        self,
        function: str,
        *,
        num_workers: int,
        timeout_seconds: float,
        setup: tuple[Any, ...] = (),
        send_ahead: bool = False,
    ) -> None:
        if num_workers < 1 or timeout_seconds <= 0:
            raise ValueError(
                f"num_workers and timeout_seconds must be positive, got {num_workers} and "
                f"{timeout_seconds}"
            )
        self._function, self._setup = function, setup
        self._num_workers, self._timeout_seconds = num_workers, timeout_seconds
        self._tasks_per_worker = 2 if send_ahead else 1
        self._jobs = Jobs()
        self._workers: list[Worker] = []
        self._failed_starts = 0
        self.idle_seconds = 0.0
        self._stall = Stall()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="fastdual-pool", daemon=True)
        self._thread.start()

    # ---- the caller's side

    def submit(self, task: Any, *, out: Target | None = None, patient: bool = False) -> int:
        """Queue a task and return its ticket; tasks are handed out in that order. Never blocks.

        Args:
            task: Anything that can be pickled.
            out: The array that the function is to fill; leave it alone until the result is there.
            patient: The task is known to be good: where it waits, something else is the cause.

        Raises:
            ValueError: The pool is closed.
        """
        pickled = pickle.dumps(task, protocol=pickle.HIGHEST_PROTOCOL)
        ticket = self._jobs.add(pickled, out, patient)
        self._wake()
        return ticket

    def result(self, ticket: int) -> Any | TaskFailure:
        """Wait for a task and return what its function returned, or a TaskFailure.

        Raises:
            FailureError: Workers cannot be started, or the pool was closed meanwhile.
        """
        return self._jobs.wait(ticket)

    def wait_for_room(self, tickets: Sequence[int]) -> bool:
        """Wait until tasks are done, or workers will soon have nothing to do.

        Returns:
            Whether tasks are awaited still, and workers want more of them meanwhile.
        """
        return self._jobs.wait_for_room(tickets, self._num_workers)

    def release(self, ticket: int) -> None:
        """Forget a ticket; its task is not run if it is still queued."""
        self._jobs.release(ticket)

    def imap(self, tasks: Iterable[Any], *, window: int) -> Iterator[tuple[Any, Any]]:
        """Yield (task, result) in order with at most `window` tasks under way."""
        pending: deque[tuple[int, Any]] = deque()
        source = iter(tasks)
        try:
            while True:
                for task in islice(source, max(1, window) - len(pending)):
                    pending.append((self.submit(task), task))
                if not pending:
                    return
                ticket, task = pending[0]
                yield task, self.result(ticket)
                self.release(ticket)
                pending.popleft()
        finally:
            for ticket, _ in pending:
                self.release(ticket)

    def close(self) -> None:
        """Kill the workers and wait for them; pending tasks are lost. May be called twice."""
        self._jobs.stop()
        self._wake()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _wake(self) -> None:
        # Fails only when the buffer is full (a wake-up is pending anyway) or the thread has ended.
        with contextlib.suppress(OSError):
            self._wake_in.send(b"x")

    # ---- the thread

    def _run(self) -> None:
        try:
            while not self._jobs.closing and self._jobs.broken is None:
                self._start_workers()
                self._hand_out()
                self._collect()
        except Exception as error:  # of the pool itself: callers must not wait forever
            self._jobs.stop(f"the worker pool failed: {type(error).__name__}: {error}")
            raise
        finally:
            for worker in list(self._workers):
                self._discard(worker)
            self._wake_in.close()
            self._wake_out.close()

    def _start_workers(self) -> None:
        load = len(self._jobs) + sum(len(worker.jobs) for worker in self._workers)
        while len(self._workers) < min(self._num_workers, load):
            self._workers.append(start_worker(self._function, self._setup))

    def _hand_out(self) -> None:
        """Send every idle worker a task, then every busy one its next task."""
        for depth in range(self._tasks_per_worker):
            for worker in self._workers:
                if not worker.ready or len(worker.jobs) != depth:
                    continue
                job = self._jobs.take(_MOST_BYTES_AHEAD if depth else None)
                if job is None:
                    return
                worker.send(job, self._timeout_seconds)

    def _collect(self) -> None:
        """Wait for a message, a death, a deadline or a wake-up, and deal with it."""
        busy = [worker for worker in self._workers if worker.jobs or not worker.ready]
        deadlines = [worker.deadline for worker in busy]
        recall = self._jobs.next_recall()
        deadline = min(deadlines if recall is None else [*deadlines, recall], default=None)
        pause = None if deadline is None else max(0.0, deadline - time.monotonic())
        sources: list[Any] = [self._wake_out, *(worker.channel for worker in self._workers)]
        ready: list[Any] = wait(sources, pause)
        if self._wake_out in ready:
            self._wake_out.recv(4096)
        for worker in list(self._workers):
            if worker.channel in ready:
                self._receive(worker)
            elif worker in busy and time.monotonic() > worker.deadline:
                self._time_out(worker)

    def _receive(self, worker: Worker) -> None:
        try:
            (kind, value, waited), _ = worker.channel.receive()
        except ChannelClosed:
            self._bury(worker)
            return
        if kind == "ready":
            worker.ready, self._failed_starts = True, 0
        elif kind == "broken":
            self._jobs.stop(f"a worker process could not import {self._function}: {value}")
        else:
            job = worker.jobs.popleft()
            self.idle_seconds += waited
            if worker.jobs:
                worker.begin(self._timeout_seconds)
            if kind == "passing":
                self._try_again(job, value, "passing")
            elif kind == "error":
                self._jobs.finish(job, TaskFailure(value, "error"))
            else:
                self._stall.end()
                self._jobs.finish(job, value)

    def _time_out(self, worker: Worker) -> None:
        computed = worker.cpu_of_job() >= _BUSY_SHARE * self._timeout_seconds
        running, _ = self._discard(worker)
        reason = f"took longer than {self._timeout_seconds:g} s"
        if running is None:
            self._count_failed_start(f"did not start within {START_SECONDS:g} s")
        elif computed:
            self._jobs.finish(running, TaskFailure(reason, "timeout"))
        else:
            self._try_again(running, reason, "timeout")

    def _try_again(self, job: Job, reason: str, kind: Literal["passing", "timeout"]) -> None:
        """Put back a task that could not read, or waited, unless it has had its tries."""
        now = time.monotonic()
        if self._stall.note(job, reason):
            job.waits_since = job.waits_since or now
        else:
            job.failures, job.waits_since = job.failures + 1, None
        if job.failures >= _MAX_FAILURES:
            self._jobs.finish(job, TaskFailure(reason, kind))
        elif job.waits_since is not None and now - job.waits_since > _LONGEST_STALL_SECONDS:
            waited = f"{reason}, again and again for {_LONGEST_STALL_SECONDS / 60:g} minutes"
            self._jobs.finish(job, TaskFailure(waited, "stalled"))
        else:
            self._jobs.put_back_later(job, now + _PAUSES[min(job.tries, len(_PAUSES)) - 1])

    def _bury(self, worker: Worker) -> None:
        """Deal with a worker that died: run its task again, unless it has had its tries."""
        running, cause = self._discard(worker)
        if running is None:
            if not worker.ready:
                self._count_failed_start(cause)
        elif running.tries < (_MAX_TRIES_KILLED if cause in _FROM_OUTSIDE else _MAX_TRIES):
            self._jobs.put_back([running])
        else:
            reason = f"crashed its worker process ({cause})"
            self._jobs.finish(running, TaskFailure(reason, "crash"))

    def _discard(self, worker: Worker) -> tuple[Job | None, str]:
        """End a worker and put back what waits there; return the job that ran and the cause."""
        self._workers.remove(worker)
        cause = worker.end()
        running = worker.jobs.popleft() if worker.jobs else None
        self._jobs.put_back(worker.jobs)
        worker.jobs.clear()
        return running, cause

    def _count_failed_start(self, cause: str) -> None:
        self._failed_starts += 1
        limit = _MAX_KILLED_STARTS if cause in _FROM_OUTSIDE else _MAX_FAILED_STARTS
        if self._failed_starts >= limit:
            self._jobs.stop(f"worker processes do not start ({cause}, {self._failed_starts} times)")
