"""`fastdual index`: build, check or show the index of a set of videos."""

from pathlib import Path
from typing import Any

import click

from fastdual.commands.shared.next_command import show_pretraining
from fastdual.commands.shared.options import InputPath, OutputFile
from fastdual.commands.shared.pack_options import parse_bytes
from fastdual.commands.shared.progress import keeping_what_is_done
from fastdual.commands.shared.verify import verify_videos
from fastdual.console import say_text
from fastdual.errors import InputError
from fastdual.loaders.index import build_index, load_index, summary
from fastdual.loaders.index.build import TIMEOUT_SECONDS
from fastdual.loaders.index.lists import parse_columns
from fastdual.loaders.index.sources import KINDS, local_folder

_PATH = InputPath()
_TIMEOUT_HELP = f"Give up on a video after so many seconds [default: {TIMEOUT_SECONDS:g}]."


def _parse_columns(ctx: click.Context, _: click.Parameter, value: str | None) -> Any:
    return None if value is None else parse_columns(value)


@click.command("index")
@click.argument("source", type=_PATH)
@click.option(
    "-o", "--output", type=OutputFile("the index"), help="Write the index of SOURCE here (x.h5)."
)
@click.option("--show", is_flag=True, help="Print what the index SOURCE holds.")
@click.option("--verify", is_flag=True, help="Decode every video again and compare.")
@click.option("--kind", type=click.Choice(KINDS), default="auto", help="Layout of SOURCE.")
@click.option("--root", type=_PATH, help="Folder that the paths of a list or index are under.")
@click.option("--annotations", type=_PATH, help="Official split files, or a CSV file.")
@click.option(
    "--columns",
    callback=_parse_columns,
    metavar="path=file,label=class",
    help="Headings of a list that has others than path, label, group, split; or column numbers.",
)
@click.option("--allow-shared-groups", is_flag=True, help="Accept a group in both train and test.")
@click.option(
    "--cache-size", callback=parse_bytes, help="Of remote videos, as 50GB [default: 20GB]."
)
@click.option("--workers", type=click.IntRange(1, 4096), help="Processes [default: one per core].")
@click.option(
    "--timeout", type=click.FloatRange(1, 1e6), default=TIMEOUT_SECONDS, help=_TIMEOUT_HELP
)
def command(
    source: Path,
    output: Path | None,
    show: bool,
    verify: bool,
    root: Path | None,
    workers: int | None,
    timeout: float,
    cache_size: int | None,
    **building: Any,
) -> None:
    """Build the index of SOURCE: a folder of videos, a list of them, or one video.

    A list is text with the columns path,label,group,split (commas, semicolons or tabs), or with a
    path and a label on each line and no heading. A folder called train, val or test is a split.

    Every video is decoded once, so that counts are exact; one that cannot be used is quarantined
    with the reason. A build that was stopped continues where it was.

    \b
      fastdual index videos -o x.h5                 a folder for each class
      fastdual index list.csv -o x.h5               columns path, label, group, split
      fastdual index list.csv -o x.h5 --columns path=file,label=class
      fastdual index UCF-101 --annotations ucfTrainTestlist -o ucf.h5
      fastdual index s3://bucket/videos -o x.h5     object storage: s3, gs, hf, https
      fastdual index x.h5 --show                    what is in it
      fastdual index x.h5 --verify                  is it still true
    """
    if cache_size is not None:
        source = local_folder(source, limit_bytes=cache_size)
    if output is not None:
        with keeping_what_is_done("indexing") as progress:
            building |= {"root": root, "num_workers": workers, "timeout_seconds": timeout}
            index = build_index(source, output, progress=progress, **building)
    elif show or verify:
        index = load_index(source, root=root)
    else:
        raise InputError("name the index to write with -o x.h5, or look at one with --show")
    if show or output is not None:
        say_text(summary(index))
    if verify:
        verify_videos(index, "index", workers=workers, timeout=timeout)
    if output is not None:
        show_pretraining(output)
