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


@pytest.mark.parametrize("name", COMMANDS)
def test_numbers_that_cannot_be_meant_are_refused_by_every_option(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    for parameter in command.params:
        if not isinstance(parameter.type, click.types.IntParamType | click.types.FloatParamType):
            continue
        for text in ("nan", "inf", "-inf", "1e400", "9" * 30, "9" * 5000):
            if isinstance(parameter.type, click.types.IntParamType) and not text.isdecimal():
                continue  # refused as no whole number
            refused = invoke([name, f"{parameter.opts[0]}={text}"])
            assert refused.exit_code == 2, (parameter.name, refused.output)
            (error,) = [line for line in refused.stderr.splitlines() if line.startswith("Error: ")]
            assert "must be a finite number below 2^64" in error, error
            assert len(error) < 400


def test_ctrl_c_ends_a_command_with_130_and_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fastdual.run.summary.find_runs", interrupted)
    result = invoke(["runs", "."])
    assert result.exit_code == 130 and result.stderr == "stopped by Ctrl-C\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pretrian", "x"], "Error: there is no command 'pretrian': did you mean pretrain?"),
        (["qqq"], "Error: there is no command 'qqq': fastdual --help lists them"),
        (["pretrain", "videos"], "Error: Missing option '--run'. (cli pretrain --help)"),
        (["embed", "run", "x", "--sride", "2"], "Error: No such option '--sride'"),
        (["demo", "x", "--seed", "many"], "Error: Invalid value for '--seed': 'many' is not a"),
    ],
)
def test_a_mistake_of_typing_is_one_line(words: list[str], said: str) -> None:
    result = invoke(words)
    (line,) = result.stderr.splitlines()
    assert result.exit_code == 2 and line.startswith(said)
