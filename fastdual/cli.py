"""The click group `fastdual`; commands are imported when named, so that `--help` stays quick."""

import difflib
import importlib
import os
from typing import Any

import click

from fastdual._version import __version__
from fastdual.console import say, show_log
from fastdual.errors import FailureError, InputError, printable, shown

# In the order in which a new user meets them.
COMMANDS = {
    "doctor": "Check this machine: driver, decoders, kernels, and what will be used.",
    "demo": "Write a small set of videos to try everything on.",
    "pretrain": "Pretrain a video backbone from a folder of videos or an index.",
    "report": "Write one HTML page on what a run learned.",
    "retrieve": "Score features by nearest-neighbour retrieval (R@1 to R@50).",
    "knn": "Classify test videos by their nearest training videos.",
    "probe": "Fit a linear classifier on frozen features; measure it on a test split.",
    "finetune": "Train an action classifier from a pretrained backbone, and test it.",
    "pretext": "Measure on held-out videos how well a run solves its pretext task.",
    "embed": "Write the features of videos to a file: HDF5, npz, CSV or Parquet.",
    "export": "Write a backbone as safetensors or for torchvision; read those of other code.",
    "index": "Build, check or show the index of a set of videos.",
    "pack": "Put a set of videos into one file, small and quick to decode.",
    "runs": "List runs and their last metrics.",
    "table": "Make a Markdown table of results.",
    "plot": "Draw loss curves and embeddings of runs as PNG files.",
    "replay": "Repeat the step at which a run stopped being finite, and find where.",
}


class UserMistake(click.ClickException):
    """One line and exit code 2: something that the user can correct."""

    exit_code = 2


class LazyGroup(click.Group):
    """A group whose commands live in `fastdual.commands.NAME` and are imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        try:
            module = importlib.import_module(f"fastdual.commands.{cmd_name}")
        except ModuleNotFoundError as error:
            if error.name is None or error.name.startswith("fastdual"):
                raise
            raise click.ClickException(
                f"{cmd_name} needs the module {error.name!r}, which is not installed: "
                'run pip install ".[video]" in fastdual\'s checkout'
            ) from error
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command, and refuse values that no argument takes.

        Where there is no command of the name, the most like it is suggested.
        """
        asked = args[0]
        if asked not in COMMANDS and not asked.startswith("-"):
            near = difflib.get_close_matches(asked, COMMANDS, n=1)
            remedy = f"did you mean {near[0]}?" if near else "fastdual --help lists them"
            raise InputError(f"there is no command {asked!r}: {remedy}")
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None:
            _refuse_values(command, rest, click.Context(command, parent=ctx, info_name=name))
        return name, command, rest

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; turn an error meant for the user into one line and its exit code."""
        show_log()
        try:
            return super().invoke(ctx)
        except click.exceptions.NoArgsIsHelpError:
            raise
        except KeyboardInterrupt:
            say("stopped by Ctrl-C", err=True)
            raise click.exceptions.Exit(130) from None
        except click.UsageError as error:  # click's own takes four lines
            where = error.ctx.command_path if error.ctx is not None else "fastdual"
            raise UserMistake(f"{error.format_message()} ({where} --help)") from error
        except (InputError, FailureError, OSError) as error:
            # A pipe closed by its reader (`| head`) is click's to handle.
            if isinstance(error, BrokenPipeError) or os.environ.get("FASTDUAL_TRACEBACK"):
                raise
            line = printable(" ".join(str(error).split()))
            if isinstance(error, InputError):
                raise UserMistake(line) from error
            raise click.ClickException(line) from error


def _refuse_values(command: click.Command, args: list[str], ctx: click.Context) -> None:
    try:
        values, _, _ = command.make_parser(ctx).parse_args(list(args))
    except click.UsageError:
        return  # the command says it itself, in its own words
    for parameter in command.get_params(ctx):
        given = values.get(parameter.name or "")
        for value in given if isinstance(given, list | tuple) else (given,):
            if not isinstance(value, str):
                continue
            name = parameter.get_error_hint(ctx)
            if not value.strip():  # not the folder here
                raise UserMistake(
                    f"{name} is empty: is it a variable of the shell that is not set?"
                )
            if isinstance(parameter.type, _NUMBERS) and not _is_sensible(value):
                raise UserMistake(f"{name} {shown(value)}: must be a finite number below 2^64")


_NUMBERS = (click.types.IntParamType, click.types.FloatParamType)


def _is_sensible(text: str) -> bool:
    """Whether a text is no number, which the command says itself, or one that may be meant."""
    try:
        return abs(float(text)) < 2**64
    except ValueError:
        return True


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fastdual")
def cli() -> None:
    """Pretrain video backbones without labels, straight from raw video files.

    \b
    A first run:
      fastdual pretrain videos/ --run runs/first     a folder of videos, or of class folders
      fastdual report runs/first videos/             one HTML page on what it learned
      fastdual demo demo --train                     the same on videos that it writes itself

    Errors are one line; FASTDUAL_TRACEBACK=1 shows where they came from.
    """
