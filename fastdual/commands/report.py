"""`fastdual report`: what a run learned, as one HTML page."""

from pathlib import Path
from typing import Any

import click

from fastdual.commands.shared.options import (
    clips_option,
    embedding_options,
    overlap_options,
    split_pair,
)
from fastdual.commands.shared.progress import video_progress

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("run", type=_PATH)
@click.argument("data", type=_PATH, required=False)
@click.option("-o", "--output", type=_PATH, help="Page [default: RUN/report.html].")
@click.option("--gallery", help="Split that is searched [default: train].")
@click.option("--queries", help="Split that is looked up [default: test].")
@click.option("--split", "family", help="NAME stands for NAME/train and NAME/test.")
@overlap_options
@clips_option(4)
@embedding_options
def command(
    run: Path,
    data: Path | None,
    output: Path | None,
    gallery: str | None,
    queries: str | None,
    family: str | None,
    allow_overlap: bool,
    overlaps_file: Path | None,
    clips_per_video: int,
    device: str,
    decode: Any,
    workers: int | None,
    root: Path | None,
) -> None:
    """Write one HTML page on RUN: curves, results, quarantined videos; and, with the videos of
    DATA, what it learned of them beside the same network with random weights.

    The page needs no network and no other file: retrieval with film strips, a map of the videos,
    similarities of segments, variance between and within videos, confusions of a linear probe.

    \b
      fastdual report runs/first
      fastdual report runs/ucf ucf101.h5 --split ucf101-1
    """
    # torch and matplotlib take seconds to import; --help does not wait for them.
    from fastdual.evaluate.embed import EmbedOptions
    from fastdual.evaluate.hygiene import index_overlaps, refuse_overlaps, write_overlaps
    from fastdual.loaders.index import open_index
    from fastdual.report.collect import collect
    from fastdual.report.page import read_facts, render, write_page
    from fastdual.training.execution import choose_device
    from fastdual.weights.load import load_network

    splits = (gallery or "train", queries or "test")
    if family is not None:
        splits = split_pair(family, gallery, queries)
    facts = read_facts(run)
    evidence = None
    if data is not None:
        where = str(choose_device(device))
        trained = load_network(run, device=where)
        untrained = load_network(run, device=where, random_weights=True)
        index = open_index(data, root=root)
        decoding: dict[str, Any] = {"decode": decode, "num_workers": workers}
        found = index_overlaps(index, *splits, **decoding)
        options = EmbedOptions(clips_per_video=clips_per_video, **decoding)
        if overlaps_file is not None:
            write_overlaps(overlaps_file, found)
        overlaps = refuse_overlaps(found, allowed=allow_overlap, listing=overlaps_file)
        with video_progress("embedding") as progress:
            evidence = collect(
                trained,
                untrained,
                index,
                splits=splits,
                options=options,
                overlaps=overlaps,
                progress=progress,
            )
        facts = facts.with_data(data, evidence)
    page = output or run / "report.html"
    write_page(page, render(facts, evidence))
    without = "" if data is not None else " (name DATA too to see what it learned)"
    click.echo(f"{page}: {max(1, page.stat().st_size >> 10):,} KiB{without}")
