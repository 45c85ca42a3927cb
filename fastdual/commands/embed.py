"""`fastdual embed`: the features of a set of videos, as an HDF5 file."""

from pathlib import Path
from typing import Any

import click

from fastdual.commands.shared.options import (
    clips_option,
    embedding_options,
    random_weights_option,
)
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
def command(
    run: Path,
    data: Path,
    output: Path,
    split: str | None,
    clips_per_video: int,
    stride: int | None,
    batch_size: int,
    device: str,
    decode: Any,
    workers: int | None,
    root: Path | None,
    random_weights: bool,
) -> None:
    """Write the features of the videos of DATA under the network of RUN.

    RUN is a run folder (its newest checkpoint is taken) or a checkpoint file; DATA is an index or a
    folder of videos. A video's feature is the backbone's output, averaged over time, space and the
    clips of the video.

    \b
      fastdual embed run x.h5 -o features.h5
      fastdual embed run x.h5 -o baseline.h5 --random-weights
    """
    # torch takes seconds to import; --help does not wait for it.
    from fastdual.evaluate.embed import EmbedOptions, embed
    from fastdual.loaders.files import make_folder_of
    from fastdual.loaders.index import open_index
    from fastdual.training.execution import choose_device
    from fastdual.weights.load import load_network

    make_folder_of(output, "the features")  # before hours are spent on them
    where = str(choose_device(device))
    network = load_network(run, device=where, random_weights=random_weights)
    index = open_index(data, root=root)
    options = EmbedOptions(
        clips_per_video=clips_per_video,
        frame_stride=stride,
        batch_size=batch_size,
        decode=decode,
        num_workers=workers,
    )
    with video_progress("embedding") as progress:
        features = embed(network, index, split=split, options=options, progress=progress)
    features.save(output)
    count, width = features.features.shape
    click.echo(f"{output}: {count} videos x {width} features ({network.weights_sha256[:32]})")
    for video in features.left_out:
        click.echo(f"left out: {video.path} ({video.reason})")
