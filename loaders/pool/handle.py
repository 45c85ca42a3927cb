"""A worker process as the pool sees it: its start, the jobs it was sent, its end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from fastdual.loaders.pool.channel import Channel, ChannelClosed
from fastdual.loaders.pool.jobs import Job
from fastdual.loaders.pool.memory import Shown

START_SECONDS = 120.0  # a worker imports PyAV and numpy, on a busy machine from a cold disk


@dataclass(eq=False)
class Worker:
    """A worker process and the jobs that it was sent: the first runs, the others wait.

    Attributes:
        deadline: When the first job, or the start, has taken too long, on the monotonic clock.
        ready: Whether the worker has started.
        cpu_before: Seconds of CPU that it had used when the first job began.
    """

    process: subprocess.Popen[bytes]
    channel: Channel
    deadline: float
    ready: bool = False
    cpu_before: float = 0.0
    jobs: deque[Job] = field(default_factory=deque)
    shown: Shown = field(default_factory=Shown)

    def send(self, job: Job, seconds: float) -> None:
        """Send a job, which may run for so long."""
        self.jobs.append(job)
        if len(self.jobs) == 1:
            self.begin(seconds)
        place, descriptor = None, None
        if job.out is not None:
            place = job.out.place
            descriptor = job.out.memory.descriptor if self.shown.show(job.out.memory) else None
        try:
            message = (job.task, place, self.shown.take_gone())
            self.channel.send(message, descriptor=descriptor)
        except ChannelClosed:
            self.process.kill()  # or dead already; the pool's thread sees its end

    def begin(self, seconds: float) -> None:
        """Note that the first job runs from now on, and may take so long."""
        self.jobs[0].tries += 1
        self.deadline = time.monotonic() + seconds
        self.cpu_before = self._cpu_seconds()

    def cpu_of_job(self) -> float:
        """Return the seconds of CPU that the first job has used so far."""
        return self._cpu_seconds() - self.cpu_before

    def _cpu_seconds(self) -> float:
        try:
            with open(f"/proc/{self.process.pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> str:
        """Kill the process if it lives, and return how it ended."""
        if self.process.poll() is None:
            self.process.kill()  # of no effect on one that is dying of its own signal
        self.channel.close()
        return _describe_exit(self.process.wait())


def start_worker(function: str, setup: tuple[Any, ...]) -> Worker:
    """Start a worker process; its first message says whether it could import the function."""
    ours, theirs = socket.socketpair()
    # A worker that is stopped in the middle of a message must not block the parent forever.
    ours.settimeout(START_SECONDS)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
    }
    command = [sys.executable, "-P", "-m", "fastdual.loaders.pool.worker"]
    process = subprocess.Popen(
        [*command, str(theirs.fileno()), str(os.getpid())],
        pass_fds=[theirs.fileno()],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,  # libav reports every broken macroblock there
    )
    theirs.close()
    worker = Worker(process, Channel(ours), time.monotonic() + START_SECONDS)
    with contextlib.suppress(ChannelClosed):  # dead already: the next wait sees it
        worker.channel.send((function, setup))
    return worker


def _describe_exit(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
