"""`fastdual plot`: pictures of runs, as PNG files."""

from pathlib import Path
from typing import Any

import click

from fastdual.commands.progress import video_progress
from fastdual.commands.retrieve import DECODERS

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("runs", type=_PATH, nargs=-1, required=True)
@click.option("-o", "--output", type=_PATH, help="Folder [default: plots in the first run's].")
@click.option("--data", type=_PATH, help="Videos: draw what each run makes of them as well.")
@click.option("--split", default="test", show_default=True, help="Split of the segment picture.")
@click.option("--clips-per-video", type=click.IntRange(min=1), default=4, show_default=True)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda or cuda:N.")
@click.option("--decode", type=click.Choice(DECODERS), default="auto", show_default=True)
@click.option("--workers", type=click.IntRange(min=1), help="Decoding processes.")
@click.option("--root", type=_PATH, help="Folder that the videos of an index lie under now.")
def command(
    runs: tuple[Path, ...],
    output: Path | None,
    data: Path | None,
    split: str,
    clips_per_video: int,
    device: str,
    decode: Any,
    workers: int | None,
    root: Path | None,
) -> None:
    """Draw the losses and accuracies of RUNS against the epoch, all runs in one picture.

    With --data, also a map of each run's features of those videos (principal components, t-SNE)
    and how alike the segments of a clip are to those of its shuffled twin.

    \b
      fastdual plot runs/a runs/b -o plots
      fastdual plot runs/a --data x.h5
    """
    # torch and matplotlib take seconds to import; --help does not wait for them.
    from fastdual.evaluate.embed import EmbedOptions, load_network
    from fastdual.execution import choose_device
    from fastdual.loaders.index import open_index
    from fastdual.report.draw import draw_network, draw_training_curves

    folder = output or runs[0] / "plots"
    click.echo(draw_training_curves(runs, folder))
    if data is None:
        return
    index = open_index(data, root=root)
    index.split(split)
    options = EmbedOptions(clips_per_video=clips_per_video, decode=decode, num_workers=workers)
    for run in runs:
        network = load_network(run, device=str(choose_device(device)))
        with video_progress("embedding") as progress:
            drawn = draw_network(
                network,
                index,
                folder,
                name=run.resolve().name,
                split=split,
                options=options,
                progress=progress,
            )
        for path in drawn:
            click.echo(path)
