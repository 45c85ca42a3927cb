"""The two kinds of errors for users; the command line prints each as one line."""

import errno


class InputError(ValueError):
    """The user's mistake: a path, value, option, recipe, index or checkpoint (exit code 2).

    Args:
        text: One line: what is wrong, and what to do about it.
        keys: The settings that the text is about, so that their origins can be named.
    """

    def __init__(self, text: str, keys: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.keys = keys


class FailureError(RuntimeError):
    """The work could not continue: a full disk, too many bad videos, no decoder (exit code 1)."""


def why_not_written(error: OSError) -> str:
    """Return why the system could not write a file, and the remedy for a full disk."""
    reason = error.strerror or str(error)
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return f"{reason}; free some space and start again" if full else reason
