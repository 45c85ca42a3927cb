"""`fastdual report`: what a run learned, as one HTML page."""

from pathlib import Path
from typing import Any

import click

from fastdual.commands.shared.backbone_option import named_on_command_line
from fastdual.commands.shared.embedding import Embedding
from fastdual.commands.shared.held_out import HoldOutRequest, hold_out_options
from fastdual.commands.shared.next_command import show_next, videos_of
from fastdual.commands.shared.options import (
    InputPath,
    OutputFile,
    clips_option,
    embedding_options,
    overlap_options,
    split_pair,
)
from fastdual.commands.shared.progress import video_progress
from fastdual.console import say, say_text

_PATH = InputPath()


@click.command()
@click.argument("run", type=_PATH)
@click.argument("data", type=_PATH, required=False)
@click.option(
    "-o",
    "--output",
    type=OutputFile("the report"),
    help="Page [default: report.html in RUN, or beside a checkpoint].",
)
@click.option("--gallery", "--train", "gallery", help="Split that is searched [default: train].")
@click.option("--queries", "--test", "queries", help="Split that is looked up [default: test].")
@click.option("--split", "family", help="NAME stands for NAME/train and NAME/test.")
@hold_out_options
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
    **values: Any,
) -> None:
    """Write one HTML page on RUN: curves, results, quarantined videos; and, with the videos of
    DATA, what it learned of them beside the same network with random weights.

    The page needs no network and no other file: retrieval with film strips, a map of the videos,
    similarities of segments, variance between and within videos, confusions of a linear probe. Of
    videos without classes it shows what needs none.

    \b
      fastdual report runs/first
      fastdual report runs/ucf ucf101.h5 --split ucf101-1
    """
    from fastdual.loaders.files import check_place
    from fastdual.report.page import read_facts, render, verdict_of, write_page

    splits: tuple[str | None, str | None] = (gallery, queries)
    if family is not None:
        splits = split_pair(family, gallery, queries)
    facts, evidence = read_facts(run), None
    page = output or (run.parent if run.is_file() else run) / "report.html"
    check_place(page, "the report")
    if data is not None:
        evidence = _collect(run, data, splits, **values)
        facts = facts.with_data(data, evidence)
    write_page(page, render(facts, evidence))
    if evidence is not None:
        say_text(verdict_of(evidence)[1])
    say(f"{page}: {max(1, page.stat().st_size >> 10):,} KiB, for any browser")
    if data is not None:
        named = named_on_command_line(click.get_current_context())
        show_next("retrieve", run, data, root=values["root"], backbone=named)
    elif (videos := videos_of(run)) is not None:
        show_next("report", run, videos)  # shows what it learned, too


def _collect(
    run: Path,
    data: Path,
    splits: tuple[str | None, str | None],
    *,
    test_share: float,
    split_seed: int,
    allow_overlap: bool,
    overlaps_file: Path | None,
    **embedding: Any,
) -> Any:
    from fastdual.evaluate.hold_out import ALL, as_one_set
    from fastdual.evaluate.hygiene import index_overlaps, settle_overlaps
    from fastdual.report.collect import collect

    chosen = Embedding(**embedding)
    trained, untrained = (chosen.network(run, random_weights=of) for of in (False, True))
    index, options = chosen.videos(data), chosen.options()
    how: dict[str, Any] = {"splits": (ALL, ALL), "options": options, "overlaps": []}
    whole = as_one_set(index) if splits == (None, None) else None
    if whole is not None:
        index = whole
    else:
        held_out = HoldOutRequest(test_share, split_seed)
        index, names, _ = held_out.splits_of(index, *splits, kept_in=run)
        decoding = {"decode": options.decode, "num_workers": options.num_workers}
        found = index_overlaps(index, *names, **decoding)
        (overlaps,) = settle_overlaps([found], allowed=allow_overlap, listing=overlaps_file)
        how |= {"splits": names, "overlaps": overlaps}
    with video_progress("embedding") as progress:
        return collect(trained, untrained, index, progress=progress, **how)
