"""The only place that prints: what comes from files is shown as text, whatever it holds."""

import logging

import click

from fastdual.errors import printable


def say(line: str = "", *, err: bool = False) -> None:
    """Print one line; what a terminal would obey, or break the line at, is escaped.

    Args:
        line: For people.
        err: Print on stderr.
    """
    click.echo(printable(line), err=err)


def say_text(text: str, *, err: bool = False) -> None:
    """Print lines of which each is shown as by `say`; names in them are `printable` already."""
    for line in text.split("\n"):
        say(line, err=err)


class LogLines(logging.Handler):
    """Prints what the library logs."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message on stderr."""
        say(record.getMessage(), err=True)


def show_log() -> None:
    """Print what fastdual's modules log, once whoever calls this."""
    logger = logging.getLogger("fastdual")
    if not any(isinstance(handler, LogLines) for handler in logger.handlers):
        logger.addHandler(LogLines(logging.WARNING))
