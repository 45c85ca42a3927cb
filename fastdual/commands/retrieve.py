"""`fastdual retrieve`: nearest-neighbour retrieval, of a run on videos or of feature files."""

import json
from typing import Any

import click

from fastdual.commands.shared.evaluation import (
    RecordedCommand,
    Request,
    evaluation_options,
    finish,
    load_pairs,
)
from fastdual.commands.shared.next_command import show_next
from fastdual.console import say, say_text

_KEPT = ("num_classes", "recall", "metrics", "chance")
_SHOWN_QUERIES, _NEIGHBOURS = 5, 5


@click.command(cls=RecordedCommand)
@evaluation_options("gallery", "queries")
def command(**values: Any) -> None:
    """Score features by retrieval: R@k is the share of queries with a video of their class among
    the k nearest of the gallery.

    Of videos without classes and splits, the nearest of each among the others are shown.

    \b
      fastdual retrieve RUN DATA                  embed both splits of DATA, then score
      fastdual retrieve RUN ucf101.h5 --split ucf101-1 --split ucf101-2 --split ucf101-3
      fastdual retrieve features.h5               a file that holds both splits
      fastdual retrieve train.h5 test.h5          gallery and queries from two files
    """
    from fastdual.evaluate.retrieval import retrieval_report, retrieval_table
    from fastdual.report.table import remarks

    request, splits, tables = Request(**values), [], []
    for pair in load_pairs(request, retrieval=True):
        if pair.is_one_set:
            _show_nearest(request, pair.train)
            return
        report = retrieval_report(pair)
        splits.append({**pair.entry(), **{key: report[key] for key in _KEPT}})
        tables.append(retrieval_table(report))
    text = "\n".join([*tables, *remarks("retrieve", splits)])
    finish("retrieve", request, splits, pair.train, text=text)


def _show_nearest(request: Request, features: Any) -> None:
    """Print the nearest videos of some, and write those of all."""
    from fastdual.evaluate.hold_out import ALL
    from fastdual.evaluate.nearest import (
        drawn,
        look_up,
        nearest_rows,
        nearest_text,
        save_nearest,
    )
    from fastdual.evaluate.results import results_folder

    lookups = look_up(features, (ALL, ALL), _NEIGHBOURS)
    shown = [lookups[row] for row in drawn(len(lookups), _SHOWN_QUERIES)]
    rows = nearest_rows(features, lookups)
    if request.as_json:
        say_text(json.dumps(rows, indent=1))
    else:
        say_text(nearest_text(nearest_rows(features, shown)))
    kept = request.output or results_folder(request.run) / "nearest.csv"
    save_nearest(rows, kept)
    say(
        f"The videos have neither classes nor splits, so nothing is counted: {len(shown)} of "
        f"{len(lookups)} were drawn, each with its nearest and the cosine. All are in {kept}",
        err=True,
    )
    if request.data is not None:
        show_next("report", request.run, request.data)
