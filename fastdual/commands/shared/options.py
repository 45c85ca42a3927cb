"""Options that several evaluations share, and what some of them stand for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from fastdual.commands.shared.backbone_option import backbone_option
from fastdual.errors import InputError
from fastdual.loaders.files import check_folder, check_place, refuse_special


class InputPath(click.Path):
    """The type of every argument and option that names a file or folder to read."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = super().convert(value, param, ctx)
        assert isinstance(path, Path)
        self._check(path)
        return path

    def _check(self, path: Path) -> None:
        refuse_special(path)


class OutputFile(InputPath):
    """That of an option that names a file to write: checked as it is read, before any work.

    Args:
        what: What the file will be, for the message: "the features".
    """

    def __init__(self, what: str) -> None:
        super().__init__()
        self._what = what

    def _check(self, path: Path) -> None:
        check_place(path, self._what)


class OutputFolder(OutputFile):
    """The same for a folder that files are written in."""

    def _check(self, path: Path) -> None:
        check_folder(path, self._what)


_DECODERS = ("auto", "nvdec", "dali-cpu", "pyav")
_PATH = InputPath()


def clips_option(default: int) -> Callable[..., Any]:
    """Return the option of every command that averages features over the clips of a video."""
    return click.option(
        "--clips-per-video",
        type=click.IntRange(min=1),
        default=default,
        show_default=True,
        help="Clips of a video whose features are averaged.",
    )


allow_missing_option = click.option(
    "--allow-missing",
    is_flag=True,
    help="Continue even if more than a tenth of the videos cannot be used.",
)
_EMBEDDING_OPTIONS = (
    click.option("--device", default="auto", show_default=True, help="cpu, cuda or cuda:N."),
    click.option(
        "--decode", type=click.Choice(_DECODERS), default="auto", show_default=True, help="Decoder."
    ),
    click.option("--workers", type=click.IntRange(1, 4096), help="Decoding processes."),
    click.option("--root", type=_PATH, help="Folder that the videos of an index lie under now."),
    allow_missing_option,
    backbone_option,
)


def embedding_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of every command that runs a network on videos: where, and how to read."""
    for option in reversed(_EMBEDDING_OPTIONS):
        command = option(command)
    return command


_OVERLAP_OPTIONS = (
    click.option("--allow-overlap", is_flag=True, help="Measure even if the splits overlap."),
    click.option(
        "--overlaps",
        "overlaps_file",
        type=OutputFile("the list of overlaps"),
        help="Write every overlap to this CSV file.",
    ),
)


def overlap_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of every command that learns from one split and measures on another."""
    for option in reversed(_OVERLAP_OPTIONS):
        command = option(command)
    return command


result_option = click.option(
    "-o",
    "--output",
    type=OutputFile("the result"),
    help="Result file [default: in RUN/results; beside a file].",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
random_weights_option = click.option(
    "--random-weights", is_flag=True, help="Untrained weights: a baseline."
)


def split_pair(family: str, train: str | None, test: str | None) -> tuple[str, str]:
    """Return the training and test split of a family, as `--split` names it.

    Raises:
        InputError: A split is named as well.
    """
    if train or test:
        raise InputError(f"--split {family} names both splits: leave out the options for one")
    return f"{family}/train", f"{family}/test"
