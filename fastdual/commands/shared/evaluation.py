"""What the commands that score features share: their options, the features, the result file."""

import json
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from fastdual.commands.shared.options import (
    clips_option,
    embedding_options,
    json_option,
    overlap_options,
    random_weights_option,
    result_option,
    split_pair,
)
from fastdual.commands.shared.progress import video_progress
from fastdual.errors import InputError

if TYPE_CHECKING:
    from fastdual.evaluate.features import FeatureSet, LeftOut
    from fastdual.evaluate.hygiene import Overlap

_PATH = click.Path(path_type=Path)
_ARGUMENTS = "fastdual.arguments"
# Options that say how videos become features: they have no meaning for features that are there.
_EMBEDDING = ("clips_per_video", "stride", "device", "decode", "workers", "root", "random_weights")


class RecordedCommand(click.Command):
    """A command that remembers how it was typed, for the result file."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)


def typed_command() -> str:
    """The command line that is running."""
    context = click.get_current_context()
    return shlex.join(["fastdual", str(context.info_name), *context.meta[_ARGUMENTS]])


def evaluation_options(
    known: str = "train", asked: str = "test"
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the arguments and options of every command that scores features.

    Args:
        known, asked: what the options that name the two splits are called.
    """
    options = (
        click.argument("source", type=_PATH),
        click.argument("data", type=_PATH, required=False),
        click.option(f"--{known}", "train", help="Split that is known [default: train]."),
        click.option(f"--{asked}", "test", help="Split that is measured on [default: test]."),
        click.option(
            "--split",
            "families",
            multiple=True,
            help="NAME stands for NAME/train and NAME/test; several are averaged.",
        ),
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
class Request:
    """The values of `evaluation_options`, under their names there."""

    source: Path
    data: Path | None
    train: str | None
    test: str | None
    families: tuple[str, ...]
    allow_overlap: bool
    overlaps_file: Path | None
    clips_per_video: int
    stride: int | None
    device: str
    decode: Any
    workers: int | None
    root: Path | None
    random_weights: bool
    output: Path | None
    as_json: bool

    def split_pairs(self) -> list[tuple[str, str]]:
        """Training and test split of each measurement."""
        if not self.families:
            return [(self.train or "train", self.test or "test")]
        return [split_pair(name, self.train, self.test) for name in self.families]

    def settle(self, found: "Sequence[list[Overlap]]") -> list[list[dict[str, Any]]]:
        """Write the overlaps of all pairs of splits where that was asked for, then refuse them."""
        from fastdual.evaluate.hygiene import refuse_overlaps, write_overlaps

        listing = self.overlaps_file
        if listing is not None:
            # Splits of one data set share videos, and so pairs: each is written once.
            write_overlaps(listing, [*dict.fromkeys(overlap for of in found for overlap in of)])
        return [refuse_overlaps(of, allowed=self.allow_overlap, listing=listing) for of in found]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two splits that are measured, by name and features, and the overlaps that were allowed."""

    train_name: str
    test_name: str
    train: "FeatureSet"
    test: "FeatureSet"
    overlaps: list[dict[str, Any]]

    def entry(self) -> dict[str, Any]:
        """What a result says of them before it comes to the numbers."""
        return {
            "train": self.train_name,
            "test": self.test_name,
            "num_train": len(self.train),
            "num_test": len(self.test),
            "left_out": {
                side: missing(features.left_out)
                for side, features in (("train", self.train), ("test", self.test))
            },
            "overlaps": self.overlaps,
        }


def missing(videos: "Iterable[LeftOut]") -> list[dict[str, str]]:
    """Videos that were left out, as a result names them."""
    return [{"path": video.path, "reason": video.reason} for video in videos]


def load_pairs(
    request: Request, *, names: tuple[str, str] = ("training videos", "test videos")
) -> Iterator[Pair]:
    """The features of each pair of splits, checked for overlaps; `names` is for errors.

    Raises:
        InputError: files, splits or weights that do not fit; overlaps that are not allowed.
    """
    from fastdual.evaluate import score

    files = score.sort_inputs(request.source, request.data)
    if files is None:
        return _pairs_of_run(request)
    _refuse_embedding_options(files[0])
    return _pairs_of_files(request, files, names)


def _refuse_embedding_options(file: Path) -> None:
    context = click.get_current_context()
    for option in context.command.params:
        source = option.name and context.get_parameter_source(option.name)
        if option.name in _EMBEDDING and source is ParameterSource.COMMANDLINE:
            raise InputError(
                f"{option.opts[0]}: the features of {file} are there already and stay as they are; "
                "leave the option away, or name a run and its videos"
            )


def _pairs_of_files(request: Request, files: list[Path], names: tuple[str, str]) -> Iterator[Pair]:
    from fastdual.evaluate.features import FeatureSet
    from fastdual.evaluate.hygiene import feature_overlaps
    from fastdual.evaluate.retrieval import check_sides
    from fastdual.evaluate.score import take_split

    pairs: list[tuple[str | None, str | None]] = [*request.split_pairs()]
    if len(files) == 2:
        if request.families:
            raise InputError("--split needs one file that holds all splits, or a run and an index")
        pairs = [(request.train, request.test)]
    sets = [FeatureSet.load(path) for path in files]
    sides = [(take_split(sets[0], train), take_split(sets[-1], test)) for train, test in pairs]
    for train_side, test_side in sides:
        check_sides(train_side, test_side, names=names)
    overlaps = request.settle([feature_overlaps(*side) for side in sides])
    for (train, test), side, found in zip(pairs, sides, overlaps, strict=True):
        yield Pair(
            train_name=train or files[0].name,
            test_name=test or files[-1].name,
            train=side[0],
            test=side[1],
            overlaps=found,
        )


def _pairs_of_run(request: Request) -> Iterator[Pair]:
    from fastdual.evaluate import score
    from fastdual.evaluate.embed import EmbedOptions, embed
    from fastdual.evaluate.hygiene import index_overlaps
    from fastdual.loaders.index import open_index
    from fastdual.training.execution import choose_device
    from fastdual.weights.load import load_network

    assert request.data is not None
    pairs = request.split_pairs()
    network = load_network(
        request.source,
        device=str(choose_device(request.device)),
        random_weights=request.random_weights,
    )
    index = open_index(request.data, root=request.root)
    decoding = {"decode": request.decode, "num_workers": request.workers}
    # Everything that can be refused is, before hours are spent on features.
    overlaps = request.settle([index_overlaps(index, *pair, **decoding) for pair in pairs])
    options = EmbedOptions(
        clips_per_video=request.clips_per_video, frame_stride=request.stride, **decoding
    )
    with video_progress("embedding") as progress:
        if len(pairs) == 1:
            names = {"gallery": pairs[0][0], "queries": pairs[0][1]}
            sides = score.sides_of_run(network, index, **names, options=options, progress=progress)
            found = [(sides.gallery, sides.queries)]
        else:
            # Splits of one data set hold the same videos: each is embedded once.
            whole = embed(network, index, options=options, progress=progress)
            found = [
                (score.take_split(whole, train), score.take_split(whole, test))
                for train, test in pairs
            ]
    for (train_name, test_name), (train, test), allowed in zip(pairs, found, overlaps, strict=True):
        yield Pair(
            train_name=train_name, test_name=test_name, train=train, test=test, overlaps=allowed
        )


def finish(
    task: str,
    request: Request,
    splits: list[dict[str, Any]],
    features: "FeatureSet",
    *,
    text: str | None = None,
    **settings: Any,
) -> None:
    """Print the result of `splits`, for people as `text` where that is given, and write it."""
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
        source=request.source,
        output=request.output,
        as_json=request.as_json,
    )


def show_and_keep(
    result: dict[str, Any], *, text: str, source: Path, output: Path | None, as_json: bool
) -> None:
    """Print a result, then write it to `output`, or to where results of `source` are kept."""
    from fastdual.evaluate.results import result_file, write_result

    click.echo(json.dumps(result, indent=1) if as_json else text)
    path = output or result_file(source, result)
    write_result(path, result)
    click.echo(f"result: {path}", err=True)
