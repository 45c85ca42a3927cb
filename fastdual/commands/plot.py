"""`fastdual plot`: pictures of runs, as PNG files."""

from pathlib import Path
from typing import Any

import click

from fastdual.commands.shared.embedding import Embedding
from fastdual.commands.shared.held_out import HoldOutRequest, hold_out_options
from fastdual.commands.shared.next_command import show_next, videos_of
from fastdual.commands.shared.options import (
    InputPath,
    OutputFolder,
    clips_option,
    embedding_options,
)
from fastdual.commands.shared.progress import video_progress
from fastdual.console import say

_PATH = InputPath()


@click.command()
@click.argument("paths", type=_PATH, nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    type=OutputFolder("the plots"),
    help="Folder [default: plots, in the first run or beside the first file].",
)
@click.option("--data", type=_PATH, help="Videos: draw what each run makes of them as well.")
@click.option(
    "--split", help="Split of the segment picture; of ucf101-1, the test half [default: test]."
)
@hold_out_options
@clips_option(4)
@embedding_options
def command(
    paths: tuple[Path, ...],
    output: Path | None,
    data: Path | None,
    split: str | None,
    test_share: float,
    split_seed: int,
    **embedding: Any,
) -> None:
    """Draw PATHS: run folders, folders that hold some, and files of features.

    Runs: their losses and accuracies against the epoch, all in one picture. Features: a map of the
    videos by principal components and t-SNE. With --data, also a map of those videos for each run,
    and how alike the segments of a clip are to those of its shuffled twin.

    \b
      fastdual plot runs/a runs/b features.h5 -o plots
      fastdual plot runs/a --data x.h5
    """
    from fastdual.evaluate.features import FeatureSet, is_features_file
    from fastdual.loaders.files import check_folder
    from fastdual.report.draw import draw_feature_map, draw_training_curves
    from fastdual.report.runs import distinct_names
    from fastdual.run.summary import runs_under

    files = [path for path in paths if is_features_file(path)]
    runs = [run for path in paths if path not in files for run in runs_under(path)]
    folder = output or (paths[0].parent if paths[0] in files else paths[0]) / "plots"
    check_folder(folder, "the plots")
    if runs:
        say(str(draw_training_curves(runs, folder)))
    for file, name in zip(files, distinct_names(files), strict=True):
        say(str(draw_feature_map(FeatureSet.load(file), folder, name=name)))
    if runs and data is not None:
        request = HoldOutRequest(test_share, split_seed)
        _draw_networks(runs, data, split, folder, Embedding(**embedding), request)
    if runs:
        show_next("report", runs[0], *filter(None, [data or videos_of(runs[0])]))
    else:
        show_next("retrieve", files[0])


def _draw_networks(
    runs: list[Path],
    data: Path,
    split: str | None,
    folder: Path,
    chosen: Embedding,
    request: HoldOutRequest,
) -> None:
    from fastdual.evaluate.splits import named_splits
    from fastdual.report.draw import draw_network
    from fastdual.report.runs import distinct_names

    index = chosen.videos(data)
    if split is not None:
        (split,) = named_splits(index.splits, split, ("test",))
    index, (_, test), _ = request.splits_of(index, None, split, kept_in=runs[0])
    for run, name in zip(runs, distinct_names(runs), strict=True):
        how = {"name": name, "split": test, "options": chosen.options()}
        network = chosen.network(run)
        with video_progress("embedding") as progress:
            drawn = draw_network(network, index, folder, progress=progress, **how)
        for picture in drawn:
            say(str(picture))
