"""What the commands that score features share: their options, the features, the result file."""

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from fastdual.commands.shared.embedding import Embedding
from fastdual.commands.shared.held_out import HoldOutRequest, announce, hold_out_options
from fastdual.commands.shared.next_command import show_next
from fastdual.commands.shared.options import (
    InputPath,
    clips_option,
    embedding_options,
    json_option,
    overlap_options,
    random_weights_option,
    result_option,
    split_pair,
)
from fastdual.commands.shared.progress import video_progress
from fastdual.console import say, say_text
from fastdual.errors import InputError
from fastdual.loaders.files import check_folder

_PATH = InputPath()
_ARGUMENTS = "fastdual.arguments"
# Options that say how videos become features: without meaning for features that exist.
_EMBEDDING = ("clips_per_video", "stride", "device", "decode", "workers", "root", "random_weights")


class RecordedCommand(click.Command):
    """A command that remembers how it was typed, for the result file."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)


def typed_command() -> str:
    """Return the command line that is running."""
    context = click.get_current_context()
    return shlex.join(["fastdual", str(context.info_name), *context.meta[_ARGUMENTS]])


def evaluation_options(
    train: str = "train", test: str = "test"
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the arguments and options of every command that scores features.

    Args:
        train, test: What the options that name the two splits are called.
    """
    options = (
        click.argument("run", type=_PATH),
        click.argument("data", type=_PATH, required=False),
        # --train and --test work everywhere, whatever else a command calls the two.
        click.option(
            *dict.fromkeys((f"--{train}", "--train")),
            "train",
            help="Split that is known [default: train].",
        ),
        click.option(
            *dict.fromkeys((f"--{test}", "--test")),
            "test",
            help="Split that is measured [default: test].",
        ),
        click.option(
            "--split",
            "families",
            multiple=True,
            help="NAME stands for NAME/train and NAME/test; several are averaged.",
        ),
        hold_out_options,
        overlap_options,
        clips_option(10),
        click.option(
            "--stride", type=click.IntRange(min=1), help="Frame stride [default: the run's]."
        ),
        embedding_options,
        random_weights_option,
        result_option,
        json_option,
    )

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@dataclass(frozen=True, kw_only=True)
class Request(Embedding):
    """The values of `evaluation_options`, under their names there."""

    run: Path
    data: Path | None
    train: str | None
    test: str | None
    families: tuple[str, ...]
    test_share: float
    split_seed: int
    allow_overlap: bool
    overlaps_file: Path | None
    output: Path | None
    as_json: bool

    @property
    def hold_out(self) -> HoldOutRequest:
        """Return what to do where the data have no splits."""
        return HoldOutRequest(self.test_share, self.split_seed)

    def families_named(self) -> list[tuple[str, str]]:
        """Return the two splits of each family that `--split` names."""
        return [split_pair(name, self.train, self.test) for name in self.families]


def load_pairs(request: Request, *, retrieval: bool = False) -> Any:
    """Return the features of each pair of splits (`evaluate.pairs`), checked for overlaps.

    Args:
        request: What was asked for.
        retrieval: Errors call the two splits gallery and queries, and videos without splits and
            labels are one pair of the same videos.

    Raises:
        InputError: Files, splits or weights that do not fit; overlaps that are not allowed.
    """
    from fastdual.evaluate import pairs
    from fastdual.evaluate.hold_out import ALL, as_one_set

    check_result(request.run, request.output)
    overlaps: dict[str, Any] = {
        "allow_overlap": request.allow_overlap,
        "overlaps_file": request.overlaps_file,
    }
    names = pairs.RETRIEVAL_NAMES if retrieval else pairs.SPLIT_NAMES
    how: dict[str, Any]
    files = pairs.features_files(request.run, request.data)
    if files is not None:
        _refuse_embedding_options(files[0])
        if len(files) > 1 and request.families:
            raise InputError("--split needs one file that holds all splits, or a run and an index")
        of_files: list[tuple[str | None, str | None]] = [*request.families_named()]
        of_files = of_files or [(request.train, request.test)]
        how = {"names": names, "how": request.hold_out.how()}
        found = pairs.pairs_of_files(files, of_files, **how, **overlaps)
        announce(found[0].held, request.run)
        return found
    assert request.data is not None
    network, index = request.network(request.run), request.videos(request.data)
    splits, held = request.families_named(), None
    if not splits:
        named = request.train, request.test
        whole = as_one_set(index) if retrieval and named == (None, None) else None
        if whole is not None:
            index, splits = whole, [(ALL, ALL)]
        else:
            index, pair, held = request.hold_out.splits_of(index, *named, kept_in=request.run)
            splits = [pair]
    how = {"options": request.options(), "names": names}
    with video_progress("embedding") as progress:
        found = pairs.pairs_of_run(network, index, splits, progress=progress, **how, **overlaps)
    say("note: the features are for this result alone; fastdual embed keeps them", err=True)
    return [replace(pair, held=held) for pair in found]


def check_result(path: Path, output: Path | None) -> None:
    """Make sure, before the work, that its result can be kept; an output is checked already."""
    from fastdual.evaluate.results import results_folder

    if output is None:
        check_folder(results_folder(path), "the result")


def _refuse_embedding_options(file: Path) -> None:
    context = click.get_current_context()
    for option in context.command.params:
        origin = option.name and context.get_parameter_source(option.name)
        if option.name in _EMBEDDING and origin is ParameterSource.COMMANDLINE:
            raise InputError(
                f"{option.opts[0]}: the features of {file} are there already and stay as they are; "
                "leave the option out, or name a run and its videos"
            )


def finish(
    task: str,
    request: Request,
    splits: list[dict[str, Any]],
    features: Any,
    *,
    text: str | None = None,
    **settings: Any,
) -> None:
    """Make the result of `splits`, print it, and write it.

    Args:
        task: Name of the evaluation.
        request: What was asked for.
        splits: The entry of each pair of splits.
        features: A FeatureSet of one of them: its weights, videos and settings.
        text: What is printed for people; None: a summary.
        settings: What else decides the numbers.
    """
    from fastdual.evaluate.results import make_result
    from fastdual.report.table import summary

    result = make_result(
        task=task,
        command=typed_command(),
        weights_sha256=features.weights_sha256,
        data_fingerprint=features.data_fingerprint,
        settings={**features.settings, **settings},
        splits=splits,
    )
    show_and_keep(
        result,
        text=summary(result) if text is None else text,
        path=request.run,
        output=request.output,
        as_json=request.as_json,
    )


def show_and_keep(
    result: dict[str, Any], *, text: str, path: Path, output: Path | None, as_json: bool
) -> None:
    """Print a result, then write it.

    Args:
        result: Plain values, as `make_result` returns them.
        text: The result for people, as printed without `as_json`.
        path: The evaluated run or file; its results are kept beside it.
        output: The file to write; None writes where the results of `path` are kept.
        as_json: Print JSON instead of text.
    """
    from fastdual.evaluate.results import result_file, write_result

    say_text(json.dumps(result, indent=1) if as_json else text)
    kept = output or result_file(path, result)
    write_result(kept, result)
    say(f"result: {kept}", err=True)
    if path.is_dir():
        show_next("table", path)
