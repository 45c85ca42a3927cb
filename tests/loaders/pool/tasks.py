"""Functions that the tests of the pool run in its worker processes."""

import ctypes
import os
import signal
import time
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from fastdual.loaders.index.probe import examine_file
from tests.loaders.processes import anonymous_mib


def run(task: tuple[str, Any], out: NDArray[Any] | None = None) -> Any:
    """Do what the first word says."""
    verb, value = task
    if verb == "square":
        return value * value
    if verb == "echo":
        return value
    if verb == "sleep":
        time.sleep(value)
        return os.getpid()
    if verb == "spin":
        end = time.monotonic() + value
        while time.monotonic() < end:
            pass
    if verb == "trouble":
        return _in_trouble(*value)
    if verb == "raise":
        raise ValueError(value)
    if verb == "signal":
        os.kill(os.getpid(), value)
    if verb == "exit":
        os._exit(value)
    if verb == "fill":
        assert out is not None
        out[...] = value
        return None
    if verb == "gaps":
        return _leave_gaps(value)
    if verb == "lambda":
        return lambda: value
    if verb == "noise":
        os.write(2, b"noise from a decoder")
        os.write(1, b"noise from a decoder")
        return value
    raise AssertionError(verb)


def _in_trouble(folder: str, name: str, times: int, error: int | None) -> str:
    """Fail so many times, by an error of the system or by waiting, then succeed."""
    tries = Path(folder) / name
    tries.write_text((tries.read_text() if tries.exists() else "") + "x")
    if len(tries.read_text()) <= times:
        if error is not None:
            raise OSError(error, os.strerror(error))
        time.sleep(600)
    return name


def _leave_gaps(mib: int) -> float:
    """Fill so many MiB of the heap, free them below a block that stays; returns MiB still held."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    blocks = [libc.malloc(1 << 16) for _ in range(16 * mib)]
    for block in blocks:
        ctypes.memset(block, 1, 1 << 16)
    libc.malloc(1 << 16)  # it stays at the top of the heap
    for block in blocks:
        libc.free(block)
    return anonymous_mib(os.getpid())


def crash_once(folder: str, name: str) -> str:
    """Die of SIGSEGV at the first call for a name; the file it leaves tells the second call."""
    marker = Path(folder) / name
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGSEGV)
    return name


def examine_or_crash(path: Path) -> Any:
    """Probe a video, unless its name says that a decoder would crash on it."""
    if "crash" in path.name:
        os.kill(os.getpid(), signal.SIGSEGV)
    return examine_file(path)
