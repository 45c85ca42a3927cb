"""`fastdual retrieve`: nearest-neighbour retrieval, of a run on videos or of feature files."""

import json
from pathlib import Path
from typing import Any

import click

from fastdual.commands.evaluation import (
    RecordedCommand,
    clips_option,
    embedding_options,
    typed_command,
)
from fastdual.commands.progress import video_progress

_PATH = click.Path(path_type=Path)


@click.command(cls=RecordedCommand)
@click.argument("source", type=_PATH)
@click.argument("data", type=_PATH, required=False)
@click.option("--gallery", help="Split that is searched [default: train].")
@click.option("--queries", help="Split whose videos are looked up [default: test].")
@click.option("--allow-overlap", is_flag=True, help="Measure although the two splits overlap.")
@clips_option(10)
@click.option("--stride", type=click.IntRange(min=1), help="Frame stride [default: the run's].")
@embedding_options
@click.option("--random-weights", is_flag=True, help="Untrained weights: a baseline.")
@click.option(
    "-o", "--output", type=_PATH, help="Result file [default: in RUN/results, for a run]."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    source: Path,
    data: Path | None,
    gallery: str | None,
    queries: str | None,
    allow_overlap: bool,
    clips_per_video: int,
    stride: int | None,
    device: str,
    decode: Any,
    workers: int | None,
    root: Path | None,
    random_weights: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Score features by retrieval: R@k is the share of queries with a video of their class among
    the k nearest of the gallery.

    \b
      fastdual retrieve RUN DATA                  embed both splits of DATA, then score
      fastdual retrieve features.h5               a file that holds both splits
      fastdual retrieve train.h5 test.h5          gallery and queries from two files
    """
    # torch takes seconds to import; --help does not wait for it.
    from fastdual.evaluate import score
    from fastdual.evaluate.embed import EmbedOptions, load_network
    from fastdual.evaluate.hygiene import feature_overlaps, index_overlaps, refuse_overlaps
    from fastdual.evaluate.results import result_file, write_result
    from fastdual.execution import choose_device
    from fastdual.loaders.index import open_index

    files = score.sort_inputs(source, data)
    if files is not None:
        sides = score.sides_of_files(files, gallery, queries)
        report = score.retrieval_report(sides)
        found = feature_overlaps(sides.gallery, sides.queries)
        overlaps = refuse_overlaps(found, allowed=allow_overlap)
    else:
        assert data is not None
        where = str(choose_device(device))
        network = load_network(source, device=where, random_weights=random_weights)
        index = open_index(data, root=root)
        options = EmbedOptions(
            clips_per_video=clips_per_video, frame_stride=stride, decode=decode, num_workers=workers
        )
        names = {"gallery": gallery or "train", "queries": queries or "test"}
        # Refused before hours are spent on features.
        found = index_overlaps(index, *names.values(), decode=decode, num_workers=workers)
        overlaps = refuse_overlaps(found, allowed=allow_overlap)
        with video_progress("embedding") as progress:
            sides = score.sides_of_run(network, index, **names, options=options, progress=progress)
        report = score.retrieval_report(sides)
    result = score.retrieval_result(report, command=typed_command(), overlaps=overlaps)
    if output is None and source.is_dir():
        output = result_file(source, result)
    if output is not None:
        write_result(output, result)
    click.echo(json.dumps(report, indent=2) if as_json else score.retrieval_table(report))
    if overlaps:
        click.echo(f"warning: {len(overlaps)} overlaps of gallery and queries allowed", err=True)
