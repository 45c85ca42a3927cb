"""`--help` of every command: what it does, and a word on each of its options."""

import click
import pytest

from fastdual.cli import COMMANDS, cli
from tests.runs import invoke


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_tells_what_it_and_its_options_do(name: str) -> None:
    shown = invoke([name, "--help"])
    assert shown.exit_code == 0 and shown.stdout.startswith(f"Usage: cli {name} ")
    command = cli.get_command(click.Context(cli), name)
    assert command is not None and command.help
    silent = [
        parameter.name
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.help
    ]
    assert silent == []
