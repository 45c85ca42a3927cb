"""A worker process as the pool sees it, and a task on its way through the pool."""

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

from fastdual.loaders.pool.channel import (
    BufferReader,
    Channel,
    ChannelClosed,
    Place,
    SharedMemory,
    Shown,
)

START_SECONDS = 120.0  # a worker imports PyAV and numpy, on a busy machine from a cold disk


@dataclass(eq=False)
class Job:
    ticket: int
    task: bytes
    memory: SharedMemory | None = None
    offset: int = 0
    tries: int = 0
    done: bool = False
    abandoned: bool = False
    result: Any = None
    lender: Worker | None = None
    buffer: int = -1
    lent: int | None = None  # the worker's buffer that was offered for the result


@dataclass(eq=False)
class Worker:
    process: subprocess.Popen[bytes]
    channel: Channel
    deadline: float
    ready: bool = False
    jobs: deque[Job] = field(default_factory=deque)  # the first runs, the others wait in the socket
    reader: BufferReader = field(default_factory=BufferReader)
    shown: Shown = field(default_factory=Shown)

    def begin(self, seconds: float) -> None:
        """Note that the first job runs from now on, and may take so long."""
        self.jobs[0].tries += 1
        self.deadline = time.monotonic() + seconds

    def place(self, job: Job) -> tuple[Place | None, int | None]:
        """Where a job's result goes, and the descriptor that the worker does not have yet."""
        if job.memory is None:
            return None, None
        place = Place(job.memory.number, job.memory.nbytes, job.offset)
        return place, job.memory.descriptor if self.shown.show(job.memory) else None


def start_worker(function: str, setup: tuple[Any, ...]) -> Worker:
    ours, theirs = socket.socketpair()
    # A worker that is stopped in the middle of a message must not stop us for ever.
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


def describe_exit(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
