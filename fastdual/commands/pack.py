"""`fastdual pack`: put the videos of an index into one file, unchanged or re-encoded."""

from pathlib import Path
from typing import Any

import click

from fastdual.commands.shared.next_command import show_pretraining
from fastdual.commands.shared.options import InputPath, OutputFile, allow_missing_option
from fastdual.commands.shared.pack_options import encoding_options, parse_bytes, parse_job
from fastdual.commands.shared.progress import keeping_what_is_done
from fastdual.commands.shared.verify import verify_videos
from fastdual.console import say, say_text
from fastdual.errors import InputError
from fastdual.loaders.index import VideoIndex, load_index, open_index, summary

_PATH = InputPath()


@click.command("pack")
@click.argument("source", type=_PATH)
@click.option(
    "-o", "--output", type=OutputFile("the pack"), help="Write the pack here (packed.h5)."
)
@encoding_options
@click.option("--shard-size", callback=parse_bytes, help="Begin a new file at this size, as 50GB.")
@click.option("--job", callback=parse_job, default="1/1", help="Pack part i of n, as 2/8.")
@click.option("--merge", is_flag=True, help="Put the packs of all jobs together.")
@click.option("--verify", is_flag=True, help="Read and decode every packed video, and compare.")
@click.option("--root", type=_PATH, help="Folder that the videos of an index lie under now.")
@allow_missing_option
@click.option("--workers", type=click.IntRange(1, 4096), help="Processes [default: one per core].")
@click.option("--timeout", type=click.FloatRange(1, 1e6), default=1800.0, help="Seconds per video.")
def command(
    source: Path,
    output: Path | None,
    merge: bool,
    verify: bool,
    root: Path | None,
    allow_missing: bool,
    workers: int | None,
    timeout: float,
    **packing: Any,
) -> None:
    """Pack the videos of SOURCE, an index or a folder, into one HDF5 file that is itself an index.

    As they are, or re-encoded, small and with a keyframe every few frames, so that a clip costs
    little more than its own frames to decode; an odd height or width is rounded up to even. A
    packing that was stopped continues where it was.

    \b
      fastdual pack x.h5 -o packed.h5 --short-side 128      for training at 112
      fastdual pack x.h5 -o packed.h5                       one file, the same bytes
      fastdual pack x.h5 -o packed.h5 --job 2/8             on the second of eight machines
      fastdual pack x.h5 -o packed.h5 --merge               then, all files in one folder
      fastdual pack packed.h5 --verify                      is it still true
    """
    from fastdual.loaders.pack import merge_jobs

    if output is None and not verify:
        raise InputError("name the pack to write with -o packed.h5, or check one with --verify")
    given = {name: value for name, value in packing.items() if value not in (None, (1, 1))}
    _refuse_idle_options(output, merge, given)
    if output is not None and merge:  # the videos need not be on this machine
        index = merge_jobs(load_index(source), output)
    else:
        with keeping_what_is_done("indexing") as progress:
            index = open_index(source, root=root, progress=progress, allow_missing=allow_missing)
        if output is not None:
            index = _pack(index, output, workers, timeout, **given)
    say_text(summary(index))
    if verify:
        verify_videos(index, "pack", workers=workers, timeout=timeout)
    if output is not None and packing["job"] == (1, 1):
        show_pretraining(output)


def _pack(
    index: VideoIndex,
    output: Path,
    workers: int | None,
    timeout: float,
    *,
    shard_size: int | None = None,
    job: tuple[int, int] = (1, 1),
    **encoding: Any,
) -> VideoIndex:
    from fastdual.loaders.pack import PackOptions, Transcoding, hardware_warning, pack

    transcoding = Transcoding(**encoding) if encoding else None
    if warning := hardware_warning(index, transcoding):
        say(f"note: {warning}", err=True)
    options = PackOptions(
        transcoding=transcoding,
        shard_bytes=shard_size,
        job=job,
        num_workers=workers,
        timeout_seconds=timeout,
    )
    with keeping_what_is_done("packing") as progress:
        return pack(index, output, options, progress=progress)


def _refuse_idle_options(output: Path | None, merge: bool, says_how: object) -> None:
    """Raise InputError where it is said how to pack, but nothing is to be packed."""
    if merge and output is None:
        raise InputError("--merge writes a pack: name it with -o packed.h5, as the jobs did")
    if says_how and (merge or output is None):
        what = "--merge takes the packs as they are" if merge else "--verify alone packs nothing"
        raise InputError(f"{what}: leave out --job, --shard-size and the options of encoding")
