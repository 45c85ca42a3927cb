"""Values that `fastdual pack` takes: HEIGHTxWIDTH, a number of bytes, i/n."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import click

from fastdual.loaders.pack import CODECS

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def _parser(pattern: str, example: str, convert: Callable[[re.Match[str]], Any]) -> Any:
    """Return a click callback for text that must match a pattern; an error shows the example."""

    def parse(context: click.Context, parameter: click.Parameter, value: str | None) -> Any:
        if value is None:
            return None
        match = re.fullmatch(pattern, value.strip(), re.IGNORECASE)
        if match is None:
            raise click.BadParameter(f"{value!r} is not like {example}")
        return convert(match)

    return parse


def _two_numbers(match: re.Match[str]) -> tuple[int, int]:
    return int(match[1]), int(match[2])


_parse_size = _parser(r"(\d{1,5})x(\d{1,5})", "128x171 (height x width)", _two_numbers)
parse_job = _parser(r"(\d{1,6})/(\d{1,6})", "2/8 (the second of eight)", _two_numbers)
parse_bytes = _parser(
    r"(\d{1,9}(?:\.\d+)?) ?([kmgt]?)b?",
    "50GB or 800MB",
    lambda match: max(1, int(float(match[1]) * _UNITS[match[2].lower()])),
)


def encoding_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of re-encoding."""
    options = (
        click.option(
            "--size", callback=_parse_size, metavar="HEIGHTxWIDTH", help="Re-encode at this size."
        ),
        click.option(
            "--short-side",
            type=click.IntRange(16),
            help="Re-encode, scaled down to this; shape kept.",
        ),
        click.option(
            "--stride",
            type=click.IntRange(1, 240),
            help="Re-encode for clips of this stride [default: 4].",
        ),
        click.option(
            "--gop", type=click.IntRange(1), help="Frames from keyframe to keyframe [default: 16]."
        ),
        click.option("--codec", type=click.Choice(CODECS), help="[default: h264]"),
        click.option("--quality", type=int, help="CRF, or quantiser of mjpeg: lower is better."),
    )
    for option in reversed(options):
        command = option(command)
    return command
