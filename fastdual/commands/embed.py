"""`fastdual embed`: the features of a set of videos, as a file."""

from pathlib import Path
from typing import Any

import click

from fastdual.commands.shared.embedding import Embedding
from fastdual.commands.shared.next_command import show_next
from fastdual.commands.shared.options import (
    InputPath,
    OutputFile,
    clips_option,
    embedding_options,
    random_weights_option,
)
from fastdual.commands.shared.progress import video_progress
from fastdual.console import say

_PATH = InputPath()


@click.command()
@click.argument("run", type=_PATH)
@click.argument("data", type=_PATH)
@click.option(
    "-o",
    "--output",
    type=OutputFile("the features"),
    required=True,
    help="File: x.h5, .npz, .csv or .parquet.",
)
@click.option("--split", help="A split, as ucf101-1/test, or both halves of ucf101-1.")
@clips_option(10)
@click.option("--stride", type=click.IntRange(min=1), help="Frame stride [default: the run's].")
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Videos at a time.",
)
@embedding_options
@random_weights_option
def command(run: Path, data: Path, output: Path, split: str | None, **embedding: Any) -> None:
    """Write the features of the videos of DATA under the network of RUN.

    RUN is a run folder (its newest checkpoint is taken), a checkpoint or a file of fastdual export;
    DATA is an index, a folder of videos or one video. The ending of the file says the format: the
    other commands read .h5, other programs .npz, .csv and .parquet. A video's feature is the
    backbone's output, averaged over time, space and the clips of the video.

    \b
      fastdual embed run x.h5 -o features.h5
      fastdual embed run videos/ -o features.csv
      fastdual embed run x.h5 -o baseline.h5 --random-weights
    """
    from fastdual.evaluate.embed import embed
    from fastdual.evaluate.formats import check_format, save_features
    from fastdual.evaluate.splits import named_splits
    from fastdual.loaders.files import check_place

    check_format(output)  # before hours are spent on them
    chosen = Embedding(**embedding)
    network, index, options = chosen.network(run), chosen.videos(data), chosen.options()
    splits = None if split is None else named_splits(index.splits, split)
    needed = 4 * len(index) * int(network.model.backbone.feature_dim)
    check_place(output, "the features", needed_bytes=needed if splits is None else 0)
    with video_progress("embedding") as progress:
        features = embed(network, index, splits=splits, options=options, progress=progress)
    save_features(features, output)
    count, width = features.features.shape
    say(f"{output}: {count} videos x {width} features ({_short(network)})")
    if features.num_seen:
        say(f"the network was pretrained on {features.num_seen} of these {count} videos")
    for video in features.left_out:
        say(f"left out: {video.path} ({video.reason})")
    if output.suffix in (".h5", ".hdf5"):
        both = all(len(features.splits.get(name, ())) for name in ("train", "test"))
        show_next("knn" if both and len(features.class_names) > 1 else "plot", output)


def _short(network: Any) -> str:
    """Return which weights these are: the start of their checksum, or the words of random ones."""
    name: str = network.weights_sha256
    return name if name.startswith("random") else f"weights {name[:12]}"
