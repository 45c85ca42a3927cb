"""What a soak does to the workers and to the files that they read, about every two seconds."""

import contextlib
import fcntl
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench.parts.soak.report import workers_of_this_process

_PAUSE_SECONDS = (0.5, 3.5)
_HELD_SECONDS = (0.5, 15.0)  # some are shorter than a soak's time limit of a video, some longer
_MOST_HELD = 2


class Attacker(threading.Thread):
    """Kills and stops random workers, and makes random files slow to open, again and again.

    Between two attacks there is a pause and at least one batch: otherwise a machine whose workers
    need longer to start than until the next kill would never load anything. What is stopped or
    slow stays so while the attacks go on.

    Args:
        seed: Of what is done to whom.
        files: Those that may become slow; none of them is open in this process.
        enabled: Whether anything is done.

    Attributes:
        done: Attacks of each kind so far.
        batch_came: Set by the consumer after each batch.
    """

    def __init__(self, seed: int, files: Sequence[Path], *, enabled: bool) -> None:
        super().__init__(daemon=True)
        self._enabled, self._files = enabled, files
        self._random, self._stopping = random.Random(seed), threading.Event()
        self._held: list[tuple[float, contextlib.ExitStack]] = []
        self.done: Counter[str] = Counter()
        self.batch_came = threading.Event()

    def run(self) -> None:
        while not self._stopping.wait(self._random.uniform(*_PAUSE_SECONDS)):
            self._let_go(time.monotonic())
            if not self.batch_came.wait(_PAUSE_SECONDS[0]):
                continue
            self.batch_came.clear()
            attacks: list[Callable[[], None]] = [self._kill, self._kill, self._stop, self._slow]
            self._random.choice(attacks)()
        self._let_go(float("inf"))

    def _kill(self) -> None:
        workers = workers_of_this_process()
        if workers:
            with contextlib.suppress(ProcessLookupError):
                how = self._random.choice((signal.SIGKILL, signal.SIGTERM))
                os.kill(self._random.choice(workers), how)
                self.done["killed"] += 1

    def _stop(self) -> None:
        workers = workers_of_this_process()
        if workers and self._hold(stopped(self._random.choice(workers))):
            self.done["stopped"] += 1

    def _slow(self) -> None:
        if self._files and self._hold(slow_to_open(self._random.choice(self._files))):
            self.done["slow"] += 1

    def _hold(self, condition: contextlib.AbstractContextManager[None]) -> bool:
        if len(self._held) == _MOST_HELD:
            return False
        held = contextlib.ExitStack()
        with contextlib.suppress(OSError):  # the worker has ended; the file is open or damaged
            held.enter_context(condition)
            until = time.monotonic() + self._random.uniform(*_HELD_SECONDS)
            self._held.append((until, held))
            return True
        return False

    def _let_go(self, now: float) -> None:
        for until, held in [one for one in self._held if one[0] <= now]:
            held.close()
            self._held.remove((until, held))

    def __enter__(self) -> "Attacker":
        if self._enabled:
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        if self._enabled:
            self.join()


@contextlib.contextmanager
def stopped(process: int) -> Iterator[None]:
    """Let a process stand still while the block runs.

    Raises:
        ProcessLookupError: There is no such process.
    """
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGCONT)


@contextlib.contextmanager
def slow_to_open(path: Path) -> Iterator[None]:
    """Let whoever opens a file wait until the block ends, as storage that stalls does.

    The kernel makes them wait for a lease that we hold, 45 s at most.

    Raises:
        OSError: It is open already, or is not there.
    """
    with open(path, "r+b") as file:
        # Whoever holds a lease is told by a signal that somebody waits; this one is ignored.
        fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        try:
            yield
        finally:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
