"""Writing beside the training step: a copy of the state, and a thread that puts it on the disk."""

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def snapshot(state: Any) -> Any:
    """A copy of nested dicts, lists and tensors that later steps cannot change.

    Tensors are copied where they are: on a GPU that is queued, and the host goes on.
    """
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, dict):
        return {key: snapshot(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(snapshot(value) for value in state)
    return state


class CheckpointWriter:
    """Runs one piece of writing at a time in a thread; what fails there is raised to the caller."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None

    def start(self, write: Callable[[], None]) -> None:
        """Begin to write, as soon as the piece before is done.

        Raises:
            Exception: what the piece before ended with.
        """
        self.wait()
        copied = _mark_copies()

        def run() -> None:
            try:
                with _aside(copied):
                    write()
            except Exception as error:  # it belongs to whoever waits
                self._failure = error

        # No daemon: a process that ends by itself finishes its checkpoint first.
        self._thread = threading.Thread(target=run, name="fastdual-checkpoint")
        self._thread.start()

    def join(self) -> None:
        """Wait until nothing is being written, and leave a failure for `wait`."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def wait(self) -> None:
        """Wait until nothing is being written.

        Raises:
            Exception: what the writing ended with.
        """
        self.join()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def check(self) -> None:
        """Raise what the writing ended with, if it has ended so; does not wait."""
        if self._failure is not None:
            self.wait()


def _mark_copies() -> torch.cuda.Event | None:
    """The moment on the GPU at which all copies asked for so far are made."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return event


def _aside(copied: torch.cuda.Event | None) -> Any:
    """A CUDA stream of this thread's own after that moment, so that training is not queued upon."""
    stream = None
    if copied is not None:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_event(copied)
    return torch.cuda.stream(stream)
