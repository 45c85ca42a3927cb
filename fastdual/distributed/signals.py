"""Signals that ask a run to stop, and output streams whose reader is gone.

SIGTERM, Ctrl-C, the end of the terminal (SIGHUP) and what batch systems send before a time limit
(SIGUSR1, SIGUSR2, SIGXCPU) ask a run to stop: it finishes the step, saves and ends. Under `nohup`
SIGHUP stays ignored.
"""

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

STOP_SIGNALS = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGXCPU,
)


def stop_signals() -> list[signal.Signals]:
    """Return the signals that ask this process to stop: without SIGHUP under nohup."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in STOP_SIGNALS if number != signal.SIGHUP or not ignored]


class StopRequest:
    """Notes, while entered, the first signal that asks to stop; a call tells whether one came.

    A second Ctrl-C interrupts at once. It needs the main thread, as all signal handlers do.

    Args:
        last: The process ends with the block if that fails: SIGTERM, by which a launcher ends all
            after one failed, is ignored from then on, so that the reason can still be reported.
    """

    def __init__(self, *, last: bool = False) -> None:
        self.signal_number: int | None = None
        self._last = last

    def __call__(self) -> bool:
        return self.signal_number is not None

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.signal(number, self._note) for number in stop_signals()}
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._last and kind is not None:
            self._before[signal.SIGTERM] = signal.SIG_IGN
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal_number = number


@contextlib.contextmanager
def lasting_output() -> Iterator[None]:
    """Keep writes to stdout and stderr from failing in the block when their reader is gone.

    Ctrl-C also ends a `tee` that reads the output, and a terminal may close; the run still saves.
    """
    with (
        contextlib.redirect_stdout(_LastingStream(sys.stdout)),
        contextlib.redirect_stderr(_LastingStream(sys.stderr)),
    ):
        yield


class _LastingStream:
    """A text stream that writes to /dev/null once its pipe or terminal is closed."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._going_on():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._going_on():
            self._stream.flush()

    @contextlib.contextmanager
    def _going_on(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            # On the file descriptor, so that Python's buffer goes there too at exit.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
