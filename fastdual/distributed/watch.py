"""A launcher's look at its processes: who is stopped, who was given up, whether elastic still acts.

elastic waits for a process that was told to end, and for the machine that keeps the meeting point.
Neither answers while it is stopped or frozen, and elastic's thread may then hang in torch's C++. So
another thread looks, and ends what nobody waits for any more.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fastdual.distributed.launched import known_processes, reported_errors
from fastdual.distributed.meeting import LostProcessError

_POLL_SECONDS = 0.2
_STOPPED = ("T", "t")  # by a signal, by a debugger
_LONGEST_GRACE_SECONDS = 60.0


class Watch:
    """Looks at the processes of a launcher while the block runs.

    Args:
        folder: Of the launcher, where its processes leave their numbers and their errors.
        timeout_seconds: How long processes may not answer.
        max_restarts: How often elastic may start them again, and wait for other machines again.
        give_up: Called in the thread when all processes of this machine have ended and elastic has
            not noticed for long; it ends the launcher.

    Attributes:
        stopped: Ranks that were found stopped, or had a stopped worker, when they were given up.
    """

    def __init__(
        self,
        folder: Path,
        *,
        timeout_seconds: float,
        max_restarts: int,
        give_up: Callable[[], None],
    ) -> None:
        self.stopped: set[int] = set()
        self._folder, self._timeout, self._give_up = folder, timeout_seconds, give_up
        grace = min(timeout_seconds / 2, _LONGEST_GRACE_SECONDS)
        self._grace = grace + (timeout_seconds if max_restarts else 0)
        self._all_stopped_since = self._all_ended_since = float("inf")
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="fastdual-watch", daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _look_on(self) -> None:
        while not self._done.wait(_POLL_SECONDS):
            self._look(time.monotonic())

    def _look(self, now: float) -> None:
        processes = known_processes(self._folder)
        living = {rank: pid for rank, pid in processes.items() if not has_ended(pid)}
        stopped = {rank for rank, pid in living.items() if _state(pid) in _STOPPED}
        self._all_stopped_since = (
            min(now, self._all_stopped_since)
            if living and len(stopped) == len(living)
            else float("inf")
        )
        self._all_ended_since = (
            min(now, self._all_ended_since) if processes and not living else float("inf")
        )
        lost = [e for e in reported_errors(self._folder) if isinstance(e, LostProcessError)]
        silent = {rank for error in lost if error.silent for rank in error.ranks}
        if lost or now - self._all_stopped_since > self._timeout:
            # A rank whose worker is stopped waits for it, and the others for the rank.
            given_up = silent & set(living)
            self.stopped |= stopped | {rank for rank in given_up if _waits(living[rank])}
            for rank in stopped | given_up:
                _kill(living[rank])
        if now - self._all_ended_since > self._grace:
            self._give_up()


def has_ended(process: int) -> bool:
    """Return whether a child of this process has ended, without reaping it."""
    try:
        return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # reaped
        return True


def _state(process: int) -> str:
    """Return the letter that Linux gives to the state of a process; T: stopped."""
    try:
        # The name, in brackets, may hold brackets and spaces itself.
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def _waits(process: int) -> bool:
    """Whether a process that this one started, in whichever thread, is stopped."""
    for thread in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended
            if any(_state(int(child)) in _STOPPED for child in thread.read_text().split()):
                return True
    return False


def _kill(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
