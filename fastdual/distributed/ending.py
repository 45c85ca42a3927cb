"""The end of a process that has met others: without Python's own way out.

A thread of torch that lets go of a tensor while Python shuts down aborts the process now and then,
with "terminate called without an active exception" (pytorch issue 190489); threads that wait for a
process which is stopped never end. Neither may cost a run that is complete its exit code.
"""

import atexit
import os
import sys
from contextlib import suppress

_met: list[bool] = []


def note_meeting() -> None:
    """Note that this process has met others."""
    _met.append(True)


def end_if_met(code: int) -> None:
    """End this process at once if it has met others; return otherwise."""
    if _met:
        end_process(code)


def end_process(code: int = 0) -> None:
    """End this process: run what is registered for its end, flush the output, and leave."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # its reader is gone
            stream.flush()
    os._exit(code)
