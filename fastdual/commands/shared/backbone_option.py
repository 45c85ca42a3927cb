"""The option by which the user himself names the code of his own that a file asks for."""

from collections.abc import Callable
from typing import Any

import click

from fastdual.errors import InputError

_NAMED = "fastdual.backbone"


def backbone_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--backbone`; while the command runs, files may ask for that backbone."""
    option = click.option(
        "--backbone",
        metavar="MODULE:FACTORY",
        expose_value=False,
        callback=_name,
        help="Your own backbone, where the run has one: no file may choose what code is run.",
    )
    return option(command)


def named_on_command_line(ctx: click.Context) -> str | None:
    """Return the value of `--backbone`."""
    value: str | None = ctx.meta.get(_NAMED)
    return value


def _name(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is None:
        return
    if ":" not in value:
        raise InputError(f"--backbone {value}: must be package.module:factory; the run knows ours")
    # torch takes seconds to import; --help does not wait for it.
    from fastdual.backbones.custom import named_backbone

    ctx.meta[_NAMED] = value
    ctx.with_resource(named_backbone(value))
