"""Processes that do not outlive their parent."""

import ctypes
import os

_PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int, signal_number: int) -> None:
    """Ask Linux to send this process a signal when its parent dies, however that happens.

    Args:
        parent: Process id of the parent; if it is gone already, this process exits.
        signal_number: SIGKILL ends a process even in the middle of a decoder that hangs.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal_number)
    if os.getppid() != parent:  # it died before we could ask
        os._exit(1)
