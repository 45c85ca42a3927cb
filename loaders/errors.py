"""The two kinds of error that fastdual's own code raises towards a user; the command line prints each as one line."""


class InputError(ValueError):
    """The user's mistake: a path, value, option, recipe, index or checkpoint that cannot be used (exit code 2)."""


class FailureError(RuntimeError):
    """The work could not go on: a full disk, too many bad videos, a decoder that is gone (exit code 1)."""
