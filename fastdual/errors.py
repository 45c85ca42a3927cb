"""The two kinds of error raised towards a user; the command line prints each as one line."""

import errno


class InputError(ValueError):
    """The user's mistake: a path, value, option, recipe, index or checkpoint (exit code 2)."""


class FailureError(RuntimeError):
    """The work could not go on: a full disk, too many bad videos, no decoder (exit code 1)."""


def why_not_written(error: OSError) -> str:
    """What the system says of a file that could not be written, and the remedy for a full disk."""
    reason = error.strerror or str(error)
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return f"{reason}; free some space and start again" if full else reason
