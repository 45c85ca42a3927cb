"""Every `fastdual ...` line in the README and the docs is one that the command line takes."""

import re
import shlex
from collections.abc import Iterator

import click
import pytest

from fastdual.cli import cli
from tests.conftest import PROJECT

PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]


def commands() -> Iterator[tuple[str, str]]:
    """(page, command line) of every line of a code block that starts with `fastdual`."""
    for page in PAGES:
        for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(), flags=re.M | re.S):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("fastdual "):
                    yield page.name, line


@pytest.mark.parametrize(("page", "line"), commands())
def test_documented_command_is_understood(page: str, line: str) -> None:
    _, name, *words = shlex.split(line, comments=True)
    command = cli.get_command(click.Context(cli), name)
    assert command is not None, f"{page}: no command {name}"
    command.make_context(name, words)


def test_there_are_commands_on_the_pages_that_teach_them() -> None:
    assert {"README.md", "data.md", "evaluation.md", "training.md"} <= {
        page for page, _ in commands()
    }
