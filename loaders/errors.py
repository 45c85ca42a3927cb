"""The two kinds of error raised towards a user; the command line prints each as one line."""


class InputError(ValueError):
    """The user's mistake: a path, value, option, recipe, index or checkpoint (exit code 2)."""


class FailureError(RuntimeError):
    """The work could not go on: a full disk, too many bad videos, no decoder (exit code 1)."""
