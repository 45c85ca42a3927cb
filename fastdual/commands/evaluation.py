"""What the commands that score features share: their options, the features, the result file."""

import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastdual.commands.backbone import backbone_option
from fastdual.commands.progress import video_progress
from fastdual.loaders.errors import InputError

if TYPE_CHECKING:
    from fastdual.evaluate.features import FeatureSet

_DECODERS = ("auto", "nvdec", "dali-cpu", "pyav")
_PATH = click.Path(path_type=Path)
_ARGUMENTS = "fastdual.arguments"


def clips_option(default: int) -> Callable[..., Any]:
    """The option of every command that averages features over the clips of a video."""
    return click.option(
        "--clips-per-video",
        type=click.IntRange(min=1),
        default=default,
        show_default=True,
        help="Clips of a video whose features are averaged.",
    )


_EMBEDDING_OPTIONS = (
    click.option("--device", default="auto", show_default=True, help="cpu, cuda or cuda:N."),
    click.option(
        "--decode", type=click.Choice(_DECODERS), default="auto", show_default=True, help="Decoder."
    ),
    click.option("--workers", type=click.IntRange(min=1), help="Decoding processes."),
    click.option("--root", type=_PATH, help="Folder that the videos of an index lie under now."),
    backbone_option,
)


def embedding_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of every command that runs a network on videos: where, and how to read."""
    for option in reversed(_EMBEDDING_OPTIONS):
        command = option(command)
    return command


_OPTIONS = (
    click.argument("source", type=_PATH),
    click.argument("data", type=_PATH, required=False),
    click.option("--train", help="Split that is learned from [default: train]."),
    click.option("--test", help="Split that is measured on [default: test]."),
    click.option(
        "--split",
        "families",
        multiple=True,
        help="NAME stands for NAME/train and NAME/test; several are averaged.",
    ),
    click.option("--allow-overlap", is_flag=True, help="Measure although train and test overlap."),
    clips_option(10),
    click.option("--stride", type=click.IntRange(min=1), help="Frame stride [default: the run's]."),
    embedding_options,
    click.option("--random-weights", is_flag=True, help="Untrained weights: a baseline."),
    click.option(
        "-o", "--output", type=_PATH, help="Result file [default: in RUN/results, for a run]."
    ),
    click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
)


class RecordedCommand(click.Command):
    """A command that remembers how it was typed, for the result file."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)


def typed_command() -> str:
    """The command line that is running."""
    context = click.get_current_context()
    return shlex.join(["fastdual", str(context.info_name), *context.meta[_ARGUMENTS]])


def evaluation_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the arguments and options of every command that scores features."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True, kw_only=True)
class Request:
    """The values of `evaluation_options`, under their names there."""

    source: Path
    data: Path | None
    train: str | None
    test: str | None
    families: tuple[str, ...]
    allow_overlap: bool
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
        if self.families and (self.train or self.test):
            raise InputError("--split names both splits: leave --train and --test away")
        if self.families:
            return [(f"{name}/train", f"{name}/test") for name in self.families]
        return [(self.train or "train", self.test or "test")]


Pair = tuple[str, str, "FeatureSet", "FeatureSet", list[dict[str, Any]]]
"""Names of the two splits, their features, and the overlaps that were allowed."""


def load_pairs(request: Request) -> Iterator[Pair]:
    """The features of each pair of splits, checked for overlaps.

    Raises:
        InputError: files, splits or weights that do not fit; overlaps that are not allowed.
    """
    from fastdual.evaluate import score
    from fastdual.evaluate.features import FeatureSet
    from fastdual.evaluate.hygiene import feature_overlaps, refuse_overlaps

    files = score.sort_inputs(request.source, request.data)
    if files is None:
        yield from _pairs_of_run(request)
        return
    if len(files) == 2:
        if request.families:
            raise InputError("--split needs one file that holds all splits, or a run and an index")
        names: list[tuple[str | None, str | None]] = [(request.train, request.test)]
    else:
        names = list(request.split_pairs())
    sets = [FeatureSet.load(path) for path in files]
    for train_name, test_name in names:
        train = score.take_split(sets[0], train_name)
        test = score.take_split(sets[-1], test_name)
        overlaps = refuse_overlaps(feature_overlaps(train, test), allowed=request.allow_overlap)
        yield train_name or files[0].name, test_name or files[-1].name, train, test, overlaps


def _pairs_of_run(request: Request) -> Iterator[Pair]:
    from fastdual.evaluate import score
    from fastdual.evaluate.embed import EmbedOptions, embed, load_network
    from fastdual.evaluate.hygiene import index_overlaps, refuse_overlaps
    from fastdual.execution import choose_device
    from fastdual.loaders.index import open_index

    assert request.data is not None
    network = load_network(
        request.source,
        device=str(choose_device(request.device)),
        random_weights=request.random_weights,
    )
    index = open_index(request.data, root=request.root)
    decoding = {"decode": request.decode, "num_workers": request.workers}
    pairs = request.split_pairs()
    # Everything that can be refused is, before hours are spent on features.
    overlaps = [
        refuse_overlaps(index_overlaps(index, *pair, **decoding), allowed=request.allow_overlap)
        for pair in pairs
    ]
    options = EmbedOptions(
        clips_per_video=request.clips_per_video, frame_stride=request.stride, **decoding
    )
    with video_progress("embedding") as progress:
        if len(pairs) == 1:
            names = {"gallery": pairs[0][0], "queries": pairs[0][1]}
            sides = score.sides_of_run(network, index, **names, options=options, progress=progress)
            yield *pairs[0], sides.gallery, sides.queries, overlaps[0]
            return
        # Splits of one data set hold the same videos: each is embedded once.
        whole = embed(network, index, options=options, progress=progress)
    for pair, found in zip(pairs, overlaps, strict=True):
        train, test = (score.take_split(whole, name) for name in pair)
        yield *pair, train, test, found


def finish(
    task: str,
    request: Request,
    splits: list[dict[str, Any]],
    features: "FeatureSet",
    **settings: Any,
) -> None:
    """Write the result of `splits` where it belongs and print it."""
    from fastdual.evaluate.results import make_result, result_file, write_result
    from fastdual.report.table import summary

    result = make_result(
        task=task,
        command=typed_command(),
        checkpoint=features.checkpoint,
        data_fingerprint=features.data_fingerprint,
        settings={**features.settings, **settings},
        splits=splits,
    )
    output = request.output
    if output is None and request.source.is_dir():
        output = result_file(request.source, result)
    if output is not None:
        write_result(output, result)
    click.echo(json.dumps(result, indent=1) if request.as_json else summary(result))
    if output is not None:
        click.echo(f"result: {output}", err=True)
