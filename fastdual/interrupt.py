"""Asking a run to stop: SIGTERM and Ctrl-C let the step finish, then the run saves and ends."""

import signal
from types import FrameType, TracebackType


class StopRequest:
    """While entered, notes the first SIGTERM or SIGINT; calling it tells whether there was one.

    A second Ctrl-C interrupts at once. Needs the main thread, as all signal handlers do.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def __call__(self) -> bool:
        return self.signal_number is not None

    def __enter__(self) -> "StopRequest":
        signals = (signal.SIGTERM, signal.SIGINT)
        self._before = {number: signal.signal(number, self._note) for number in signals}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal_number = number
