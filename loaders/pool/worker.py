"""The child process of `loaders.pool`: call one function on one task after the other.

Started as `python -m fastdual.loaders.pool.worker SOCKET PARENT`, so that nothing of the parent is
forked and the user's `__main__` is not imported again.
"""

from __future__ import annotations

import ctypes
import importlib
import itertools
import os
import pickle
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from fastdual.errors import FailureError, InputError
from fastdual.loaders.pool.channel import Attached, BufferWriter, Channel, ChannelClosed, Deferred

_PR_SET_PDEATHSIG = 1
_TASKS_BETWEEN_TRIMS = 256  # trimming takes a third of a millisecond


def main() -> None:
    """Serve tasks until the parent closes the socket or dies."""
    endpoint, parent = int(sys.argv[1]), int(sys.argv[2])
    _die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent to answer
    channel = Channel(socket.socket(fileno=endpoint))
    try:
        (function, setup), _ = channel.receive()
        try:
            call = _load(function)
        except Exception as error:
            channel.send(("broken", f"{type(error).__name__}: {error}"))
            return
        channel.send(("ready", None))
        _serve(channel, call, setup)
    except ChannelClosed:
        return


def _die_with(parent: int) -> None:
    """Ask Linux to kill us when the parent dies, even in the middle of a hanging decoder."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we could ask
        os._exit(1)


def _load(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return function


def _serve(channel: Channel, call: Callable[..., Any], setup: tuple[Any, ...]) -> None:
    writer, attached = BufferWriter(), Attached()
    # Frames of many sizes leave gaps in the heap of the C library: 22 MiB after 33,000 small tasks.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    for number in itertools.count(1):
        if trim is not None and number % _TASKS_BETWEEN_TRIMS == 0:
            trim(0)
        (task, buffer, dropped, place, gone), descriptor = channel.receive()
        writer.drop(dropped)
        attached.forget(gone)
        if descriptor is not None:
            attached.attach(place, descriptor)
            os.close(descriptor)
        try:
            result = call(*setup, pickle.loads(task))
            if isinstance(result, np.ndarray) and result.dtype == np.uint8:
                result = Deferred.of(result)
            if isinstance(result, Deferred) and place is not None:
                attached.fill(place, result)
                channel.send(("value", None))
            elif isinstance(result, Deferred):
                _send_array(channel, writer, result, buffer)
            else:
                channel.send(("value", result))
        except ChannelClosed:
            raise
        except Exception as error:  # of the task, or a result that cannot be pickled
            channel.send(("error", _describe(error)))


def _describe(error: Exception) -> str:
    """Our own messages are meant for people as they are; others need the name of the error."""
    is_ours = isinstance(error, FailureError | InputError)
    return str(error) if is_ours else f"{type(error).__name__}: {error}"


def _send_array(
    channel: Channel, writer: BufferWriter, result: Deferred, buffer: int | None
) -> None:
    header, descriptor = writer.write(result, buffer)
    if descriptor < 0:
        channel.send(("array", header))
        return
    try:
        channel.send(("array", header), descriptor=descriptor)
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    main()
