"""`fastdual embed`: the features of a set of videos, as an HDF5 file."""

from pathlib import Path
from typing import Any

import click

from fastdual.commands.shared.embedding import Embedding
from fastdual.commands.shared.options import clips_option, embedding_options, random_weights_option
from fastdual.commands.shared.progress import video_progress

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("run", type=_PATH)
@click.argument("data", type=_PATH)
@click.option("-o", "--output", type=_PATH, required=True, help="Write the features here (x.h5).")
@click.option("--split", help="Embed one split, such as ucf101-1/test [default: every video].")
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

    RUN is a run folder (its newest checkpoint is taken) or a checkpoint file; DATA is an index or a
    folder of videos. A video's feature is the backbone's output, averaged over time, space and the
    clips of the video.

    \b
      fastdual embed run x.h5 -o features.h5
      fastdual embed run x.h5 -o baseline.h5 --random-weights
    """
    from fastdual.evaluate.embed import embed
    from fastdual.loaders.files import make_folder_of

    make_folder_of(output, "the features")  # before hours are spent on them
    chosen = Embedding(**embedding)
    network, index, options = chosen.network(run), chosen.videos(data), chosen.options()
    splits = None if split is None else [split]
    with video_progress("embedding") as progress:
        features = embed(network, index, splits=splits, options=options, progress=progress)
    features.save(output)
    count, width = features.features.shape
    click.echo(f"{output}: {count} videos x {width} features ({network.weights_sha256[:32]})")
    for video in features.left_out:
        click.echo(f"left out: {video.path} ({video.reason})")
