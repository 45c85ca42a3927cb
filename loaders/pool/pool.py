"""Worker processes that may crash or hang without taking the run with them.

A corrupt video can kill a decoder or keep it busy for ever, so every file is touched in a child
process: a crash costs that child, a hang ends at a time limit, and the task of a child that was
killed from outside is run again. One thread of the parent hands out tasks and collects results, so
workers stay busy while the caller does something else.
"""

from __future__ import annotations

import contextlib
import pickle
import socket
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any, Literal, Self

from fastdual.errors import FailureError
from fastdual.loaders.pool.channel import ArrayHeader, ChannelClosed, SharedMemory
from fastdual.loaders.pool.handle import START_SECONDS, Job, Worker, describe_exit, start_worker

_MAX_FAILED_STARTS = 3
_MAX_KILLED_STARTS = 30  # on a busy machine a worker takes seconds to start, and may be killed then
_MAX_TRIES = 2  # a crash is tried once more, on a fresh worker
_MAX_TRIES_KILLED = 10  # a signal from outside is not the task's fault
_FROM_OUTSIDE = ("SIGKILL", "SIGTERM")
_FREE_BUFFERS_PER_WORKER = 4
_MOST_BYTES_AHEAD = 1 << 14  # of a task that waits in a socket: it must fit, or sending blocks


@dataclass(frozen=True)
class TaskFailure:
    """A task that gave no result: it raised, its worker died (twice), or it took too long."""

    reason: str
    kind: Literal["error", "crash", "timeout"]


class ProcessPool:
    """Runs `function(*setup, task)` in `num_workers` child processes.

    Args:
        function: "package.module:name", imported in the child.
        num_workers: Child processes.
        timeout_seconds: A task that runs longer fails with kind "timeout" and costs its worker.
        setup: Leading arguments of every call.
        send_ahead: Send a worker its next task while it is at another, so that it never waits for
            us. That task cannot go to another worker then: for short tasks of similar length.

    A uint8 array returned by the function, or a `Deferred` one, arrives as a view of shared memory
    that is valid until its ticket is released; any other result is pickled. A `Deferred` array may
    also be made at a place in memory of the caller's; the result is None then. Use as a context
    manager or call `close`.
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
        self._condition = threading.Condition()
        self._jobs: dict[int, Job] = {}
        self._queue: deque[Job] = deque()
        self._workers: list[Worker] = []
        self._next_ticket = 0
        self._failed_starts = 0
        self._broken: str | None = None
        self._closing = False
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="fastdual-pool", daemon=True)
        self._thread.start()

    # ---- the caller's side

    def submit(self, task: Any, *, memory: SharedMemory | None = None, offset: int = 0) -> int:
        """Queue a task and return its ticket; they are handed out in that order. Never blocks.

        A `Deferred` result is made in `memory`, from byte `offset` on.
        """
        body = pickle.dumps(task, protocol=pickle.HIGHEST_PROTOCOL)
        with self._condition:
            if self._closing:
                raise ValueError("the pool is closed")
            job = Job(self._next_ticket, body, memory, offset)
            self._next_ticket += 1
            self._jobs[job.ticket] = job
            self._queue.append(job)
        self._wake()
        return job.ticket

    def result(self, ticket: int) -> Any | TaskFailure:
        """Wait for a task and return what its function returned, or a TaskFailure.

        Raises:
            FailureError: Workers cannot be started, or the pool was closed meanwhile.
        """
        with self._condition:
            job = self._jobs[ticket]
            while not (job.done or self._broken or self._closing):
                self._condition.wait()
            if job.done:
                return job.result
            raise FailureError(self._broken or "the worker pool was closed before its result came")

    def release(self, ticket: int) -> None:
        """Forget a ticket: its array may be overwritten from now on; a queued task is dropped."""
        with self._condition:
            job = self._jobs.pop(ticket, None)
            if job is None:
                return
            job.abandoned, job.result = True, None
            if job.lender is not None:
                job.lender.reader.put_back(job.buffer, keep=_FREE_BUFFERS_PER_WORKER)

    def imap(self, tasks: Iterable[Any], *, window: int) -> Iterator[tuple[Any, Any]]:
        """Yield (task, result) in order with at most `window` tasks under way.

        A result that lies in shared memory is valid until the next step.
        """
        pending: deque[tuple[int, Any]] = deque()
        source = iter(tasks)
        try:
            while True:
                while len(pending) < max(1, window):
                    try:
                        task = next(source)
                    except StopIteration:
                        break
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

    def worker_pids(self) -> list[int]:
        """Process ids of the workers that are alive now."""
        with self._condition:
            return [worker.process.pid for worker in self._workers]

    def close(self) -> None:
        """Kill the workers and wait for them; pending tasks are lost. May be called twice."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        self._wake()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _wake(self) -> None:
        # Fails only when the buffer is full (a wake-up is pending anyway) or the thread has ended.
        with contextlib.suppress(OSError):
            self._wake_in.send(b"x")

    # ---- the thread

    def _run(self) -> None:
        try:
            while not self._closing and self._broken is None:
                self._start_workers()
                self._hand_out()
                self._collect()
        except Exception as error:  # a bug of ours must not leave callers waiting for ever
            self._break(f"the worker pool failed: {type(error).__name__}: {error}")
            raise
        finally:
            for worker in list(self._workers):
                self._discard(worker)
            self._wake_in.close()
            self._wake_out.close()

    def _start_workers(self) -> None:
        wanted = min(self._num_workers, self._load())
        while len(self._workers) < wanted and self._broken is None:
            worker = start_worker(self._function, self._setup)
            with self._condition:
                self._workers.append(worker)

    def _load(self) -> int:
        """Number of tasks queued or running: no more workers than that are ever needed."""
        with self._condition:
            return len(self._queue) + sum(len(worker.jobs) for worker in self._workers)

    def _hand_out(self) -> None:
        """Give every idle worker a task, then every busy one what it does next."""
        for depth in range(self._tasks_per_worker):
            for worker in list(self._workers):
                if not worker.ready or len(worker.jobs) != depth:
                    continue
                with self._condition:
                    job = self._next_job(_MOST_BYTES_AHEAD if depth else None)
                if job is None:
                    return
                self._send(worker, job)

    def _send(self, worker: Worker, job: Job) -> None:
        worker.jobs.append(job)
        if len(worker.jobs) == 1:
            worker.begin(self._timeout_seconds)
        with self._condition:
            job.lent, dropped = worker.reader.take()
        place, descriptor = worker.place(job)
        try:
            message = (job.task, job.lent, dropped, place, worker.shown.take_gone())
            worker.channel.send(message, descriptor=descriptor)
        except ChannelClosed:
            worker.process.kill()  # or dead already; `_collect` sees its end, like any other's

    def _next_job(self, most_bytes: int | None) -> Job | None:
        """The next task that somebody still wants, unless it is longer than that."""
        while self._queue and self._queue[0].abandoned:
            self._queue.popleft()
        if not self._queue or most_bytes is not None and len(self._queue[0].task) > most_bytes:
            return None
        return self._queue.popleft()

    def _collect(self) -> None:
        """Wait for a message, a death, a deadline or a wake-up, and deal with it."""
        busy = [worker for worker in self._workers if worker.jobs or not worker.ready]
        deadline = min((worker.deadline for worker in busy), default=None)
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
            (kind, value), descriptor = worker.channel.receive()
        except ChannelClosed:
            self._bury(worker)
            return
        if kind == "ready":
            worker.ready, self._failed_starts = True, 0
        elif kind == "broken":
            self._break(f"a worker process could not import {self._function}: {value}")
        else:
            self._deliver(worker, kind, value, descriptor)

    def _deliver(self, worker: Worker, kind: str, value: Any, descriptor: int | None) -> None:
        job = worker.jobs.popleft()
        if worker.jobs:
            worker.begin(self._timeout_seconds)
        if kind == "error":
            value = TaskFailure(value, "error")
        if kind == "array":
            header: ArrayHeader = value
            with self._condition:
                value = worker.reader.view(header, descriptor)
                job.lender, job.buffer = worker, header.buffer
        if job.lent is not None and (job.lender is None or job.lent != job.buffer):
            with self._condition:
                # Not used although offered: too small for what comes here, so do not keep it.
                worker.reader.put_back(job.lent, keep=0)
        self._finish(job, value)

    def _finish(self, job: Job, result: Any) -> None:
        with self._condition:
            if job.abandoned:
                if job.lender is not None:
                    job.lender.reader.put_back(job.buffer, keep=_FREE_BUFFERS_PER_WORKER)
                return
            job.result, job.done = result, True
            self._condition.notify_all()

    def _time_out(self, worker: Worker) -> None:
        running = self._take_jobs(worker)
        self._discard(worker)
        if running is not None:
            reason = f"took longer than {self._timeout_seconds:g} s"
            self._finish(running, TaskFailure(reason, "timeout"))
        else:
            self._count_failed_start(f"did not start within {START_SECONDS:g} s")

    def _bury(self, worker: Worker) -> None:
        """A worker died: run its task again, unless it has had its tries."""
        running, ready = self._take_jobs(worker), worker.ready
        cause = describe_exit(self._discard(worker))
        if running is None:
            if not ready:
                self._count_failed_start(cause)
            return
        if running.tries < (_MAX_TRIES_KILLED if cause in _FROM_OUTSIDE else _MAX_TRIES):
            with self._condition:
                self._queue.appendleft(running)
            return
        self._finish(running, TaskFailure(f"crashed its worker process ({cause})", "crash"))

    def _take_jobs(self, worker: Worker) -> Job | None:
        """Put the jobs that wait at a worker back into the queue; return the one that runs."""
        running = worker.jobs.popleft() if worker.jobs else None
        with self._condition:
            self._queue.extendleft(reversed(worker.jobs))
        worker.jobs.clear()
        return running

    def _count_failed_start(self, cause: str) -> None:
        self._failed_starts += 1
        limit = _MAX_KILLED_STARTS if cause in _FROM_OUTSIDE else _MAX_FAILED_STARTS
        if self._failed_starts >= limit:
            self._break(f"worker processes do not start ({cause}, {self._failed_starts} times)")

    def _break(self, reason: str) -> None:
        with self._condition:
            self._broken = reason
            self._condition.notify_all()

    def _discard(self, worker: Worker) -> int:
        """Kill a worker if it lives and return its exit status; lent arrays stay readable."""
        with self._condition:
            self._workers.remove(worker)
        if worker.process.poll() is None:
            worker.process.kill()  # of no effect on one that is dying of its own signal
        worker.channel.close()
        return worker.process.wait()
