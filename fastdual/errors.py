"""The kinds of errors for users; the command line prints each as one line."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

# What code raises that meets values of another type, range or depth than it was written for.
_WRONG_VALUES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,  # torch's word for all of these; a RecursionError is one as well
    TypeError,
    ValueError,
)
_SHOWN_LETTERS = 200


def printable(text: str) -> str:
    """Return text as one line that a terminal shows as it is.

    File names may hold newlines, escape sequences, marks that turn the order of letters, and bytes
    that are no text: they could fake lines of their own.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


class InputError(ValueError):
    """The user's mistake: a path, value, option, recipe, index or checkpoint (exit code 2).

    Args:
        text: One line: what is wrong, and what to do about it.
        keys: The settings that the text is about, so that their origins can be named.
    """

    def __init__(self, text: str, keys: tuple[str, ...] = ()) -> None:
        super().__init__(" ".join(text.splitlines()))  # a value in it may have several lines
        self.keys = keys


class FailureError(RuntimeError):
    """The work could not continue: a full disk, too many bad videos, no decoder (exit code 1)."""


class PassingError(FailureError):
    """What failed now may work later: the storage, memory or descriptors, not the file read."""


# No disk, memory or descriptor left, a mount that is stale, away or busy, no permission.
# fmt: off
_PASSING = frozenset({
    errno.EACCES, errno.EAGAIN, errno.EBUSY, errno.ECONNABORTED, errno.ECONNRESET, errno.EHOSTDOWN,
    errno.EHOSTUNREACH, errno.EINTR, errno.EIO, errno.EMFILE, errno.ENETDOWN, errno.ENETUNREACH,
    errno.ENFILE, errno.ENODEV, errno.ENOLCK, errno.ENOLINK, errno.ENOMEM, errno.ENOTCONN,
    errno.ENXIO, errno.EPERM, errno.EREMOTEIO, errno.ESHUTDOWN, errno.ESTALE, errno.ETIMEDOUT,
})
# fmt: on


def is_passing(error: BaseException | None) -> bool:
    """Say whether an error of the system says nothing about the file that was read."""
    if isinstance(error, OSError):
        return error.errno in _PASSING
    return isinstance(error, MemoryError | PassingError)


def why_not_written(error: OSError) -> str:
    """Return why the system could not write a file, and the remedy for a full disk."""
    reason = error.strerror or str(error)
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return f"{reason}; free some space and start again" if full else reason


def shown(value: object) -> str:
    """Return a value as an error message shows it: on one line, and not too long."""
    try:
        text = " ".join(repr(value).split())
    except (ValueError, RecursionError):  # a number of thousands of digits; lists within lists
        return f"a {type(value).__name__} that is too long to show"
    return (
        text if len(text) <= _SHOWN_LETTERS else f"{text[:_SHOWN_LETTERS]}... ({len(text)} letters)"
    )


def is_number(text: str) -> bool:
    """Whether a text is a whole number of at most 18 digits; of thousands, `int` makes an error."""
    return text.isdecimal() and len(text) <= 18


def first_line(error: BaseException) -> str:
    """Return what an error says, on one line of bounded length; its type where it says nothing."""
    text = next(iter(str(error).strip().splitlines()), "")
    return text[:_SHOWN_LETTERS] or type(error).__name__


@contextmanager
def contents_of(what: object, remedy: str) -> Iterator[None]:
    """Read values out of a file in the block: whatever wrong ones raise is one line.

    Args:
        what: The file, and the place in it where that is known.
        remedy: What to do about it.

    Raises:
        InputError: Names the file, what is wrong and the remedy.
    """
    try:
        yield
    except (InputError, FailureError):
        raise
    except _WRONG_VALUES as error:
        if "allocate" in str(error):  # memory that ran out says nothing of the file
            raise
        reason = f"no {error}" if isinstance(error, KeyError) else first_line(error)
        raise InputError(
            f"{what}: holds what fastdual never writes ({type(error).__name__}: {reason}); {remedy}"
        ) from error
