"""The worker process of the pool: call one function on one task after the other.

It is started as `python -m fastdual.loaders.pool.worker SOCKET PARENT`, so that nothing of the
parent is forked and the user's `__main__` is not imported again.
"""

from __future__ import annotations

import ctypes
import importlib
import itertools
import pickle
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from fastdual.errors import FailureError, InputError, is_passing
from fastdual.loaders.pool.channel import Channel, ChannelClosed
from fastdual.loaders.pool.memory import Attached
from fastdual.loaders.pool.parent import end_with_parent

_TASKS_BETWEEN_TRIMS = 256  # trimming takes a third of a millisecond


def main() -> None:
    """Serve tasks until the parent closes the socket or dies."""
    endpoint, parent = int(sys.argv[1]), int(sys.argv[2])
    end_with_parent(parent, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent to answer
    channel = Channel(socket.socket(fileno=endpoint))
    try:
        (function, setup), _ = channel.receive()
        try:
            call = _load(function)
        except Exception as error:
            channel.send(("broken", f"{type(error).__name__}: {error}", 0.0))
            return
        channel.send(("ready", None, 0.0))
        _serve(channel, call, setup)
    except ChannelClosed:
        return


def _load(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return function


def _serve(channel: Channel, call: Callable[..., Any], setup: tuple[Any, ...]) -> None:
    attached = Attached()
    # Frames of many sizes leave gaps in the heap of the C library: 22 MiB after 33,000 small tasks.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    for number in itertools.count(1):
        if trim is not None and number % _TASKS_BETWEEN_TRIMS == 0:
            trim(0)
        begun = time.monotonic()
        (task, place, gone), descriptor = channel.receive()
        waited = time.monotonic() - begun
        attached.forget(gone)
        try:
            arguments = *setup, pickle.loads(task)
            if place is None:
                result = call(*arguments)
            else:
                result = call(*arguments, attached.array(place, descriptor))
            channel.send(("value", result, waited))
        except ChannelClosed:
            raise
        except Exception as error:  # of the task, or a result that cannot be pickled
            kind = "passing" if is_passing(error) else "error"
            channel.send((kind, _describe(error), waited))


def _describe(error: Exception) -> str:
    """Our own messages are meant for people as they are; others need the name of the error."""
    is_ours = isinstance(error, FailureError | InputError)
    return str(error) if is_ours else f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    main()
