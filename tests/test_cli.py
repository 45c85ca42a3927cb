"""What holds for every command: empty arguments are refused, and named remedies exist."""

import click
import pytest

from fastdual.cli import COMMANDS, cli
from tests.runs import invoke


def parameters() -> list[tuple[str, click.Parameter]]:
    """Every argument and every option with a value of every command."""
    found = []
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        for parameter in command.params:
            is_flag = isinstance(parameter, click.Option) and parameter.is_flag
            found += [] if is_flag else [(name, parameter)]
    return found


@pytest.mark.parametrize(
    ("name", "parameter"), parameters(), ids=lambda value: getattr(value, "name", value)
)
@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_argument_is_refused_by_name(
    name: str, parameter: click.Parameter, empty: str
) -> None:
    given, shown = [parameter.opts[0], empty], parameter.opts[0]
    if isinstance(parameter, click.Argument):
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        given = [empty if known == parameter else "x" for known in command.params]
        given = given[: command.params.index(parameter) + 1]
        shown = parameter.human_readable_name
    done = invoke([name, *given])
    assert done.exit_code == 2, done.output
    assert shown.lower().strip(".") in done.stderr.lower()
    assert "is empty: is it a variable of the shell that is not set?" in done.stderr
