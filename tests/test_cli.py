"""What holds for every command: empty arguments are refused, and named remedies exist."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from fastdual.cli import COMMANDS, cli
from tests.conftest import PROJECT
from tests.runs import invoke

TRAINING = ("pretrain", "finetune")
SCORING = ("retrieve", "probe", "knn")
DATA = (*TRAINING, *SCORING, "embed", "report", "pretext", "plot", "replay", "pack")
# Which commands can print a message of a file: the first that fits.
PRINTED_BY = (
    ("loaders/index/missing.py", DATA),
    ("loaders/index/file.py", (*DATA, "index")),
    ("loaders/pack", ("pack",)),
    ("fastdual/evaluate/hygiene.py", (*SCORING, "report", "finetune")),
    ("fastdual/evaluate/hold_out.py", (*SCORING, "report", "pretext", "plot", "finetune")),
    ("fastdual/training/data_change.py", TRAINING),
)
# What the user gave is named too, by the one command that takes it.
GIVEN = {"--annotations", "--columns", "--kind", "--help", "--backbone"}


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


def options_of(name: str) -> set[str]:
    """Every option of a command."""
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    return {option for parameter in command.params for option in parameter.opts}


def messages() -> Iterator[tuple[Path, str]]:
    """Every text in the product that names an option, with its file."""
    for folder in ("fastdual", "loaders"):
        for path in sorted((PROJECT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            inner = {
                id(part)
                for node in ast.walk(tree)
                if isinstance(node, ast.JoinedStr)
                for part in node.values
            }
            documented = inner | {
                id(node.body[0].value)
                for node in ast.walk(tree)
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
                and node.body
                and isinstance(node.body[0], ast.Expr)
            }
            for node in ast.walk(tree):
                if isinstance(node, ast.Constant | ast.JoinedStr) and id(node) not in documented:
                    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
                    texts = [p.value if isinstance(p, ast.Constant) else "X" for p in parts]
                    text = "".join(part for part in texts if isinstance(part, str))
                    if re.search(r"(?<![\w-])--[a-z]", text):
                        yield path.relative_to(PROJECT), text


def test_every_option_that_a_message_names_exists_where_it_is_printed() -> None:
    every = {option for name in COMMANDS for option in options_of(name)} | {"--help"}
    wrong, seen = [], 0
    for path, text in messages():
        for match in re.finditer(r"(?<![\w-])--[a-z][a-z-]+", text):
            option, seen = match[0], seen + 1
            named = re.findall(r"fastdual (\w+)\b", text[: match.start()])
            printed_by = next((of for start, of in PRINTED_BY if str(path).startswith(start)), ())
            if path.parent == Path("fastdual/commands") and path.stem in COMMANDS:
                printed_by = (path.stem,)
            allowed = [options_of(name) for name in named[-1:] if name in COMMANDS]
            allowed = allowed or [options_of(name) for name in printed_by if option not in GIVEN]
            if option not in every or not all(option in of for of in allowed):
                wrong.append(f"{path}: {option} in {text[:80]!r}")
    assert not wrong and seen > 40, wrong
