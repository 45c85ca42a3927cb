"""Writing checkpoints beside the training step: a copy of the state, and a thread for the disk."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import torch
from torch import Tensor


def copy_state(state: Any) -> Any:
    """Return a copy of nested dicts, lists and tensors that later steps cannot change.

    Tensors are copied where they are: on a GPU the copy is queued, and the host goes on.
    """
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, dict):
        return {key: copy_state(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(copy_state(value) for value in state)
    return state


class CheckpointWriter:
    """Runs one piece of writing at a time in a thread; its failure is raised to the caller.

    A process that ends by itself finishes the piece first.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fastdual-checkpoint")
        self._last: Future[None] | None = None

    def start(self, write: Callable[[], None]) -> None:
        """Start writing, as soon as the piece before is done.

        Raises:
            Exception: What the piece before ended with.
        """
        self.wait()
        self._last = self._thread.submit(_write_aside, write, _mark_copies())

    def join(self) -> None:
        """Wait until nothing is being written, and keep a failure for `wait`."""
        if self._last is not None:
            wait([self._last])

    def wait(self) -> None:
        """Wait until nothing is being written.

        Raises:
            Exception: What the writing ended with.
        """
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def check(self) -> None:
        """Raise what the writing ended with, if it has ended so; does not wait."""
        if self._last is not None and self._last.done():
            self.wait()


def _mark_copies() -> torch.cuda.Event | None:
    """Return the moment on the GPU at which all copies queued so far are made."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return event


def _write_aside(write: Callable[[], None], copied: torch.cuda.Event | None) -> None:
    """Write from a CUDA stream of its own after that moment, so that training does not wait."""
    stream = None
    if copied is not None:
        # By name: in a thread, the current device is the first one.
        stream = torch.cuda.Stream(copied.device)  # type: ignore[no-untyped-call]
        stream.wait_event(copied)
    with torch.cuda.stream(stream):
        write()
