"""`fastdual retrieve`: nearest-neighbour retrieval, of a run on videos or of feature files."""

from typing import Any

import click

from fastdual.commands.shared.evaluation import (
    RecordedCommand,
    Request,
    evaluation_options,
    finish,
    load_pairs,
)

_KEPT = ("num_classes", "recall", "metrics", "chance")


@click.command(cls=RecordedCommand)
@evaluation_options("gallery", "queries")
def command(**values: Any) -> None:
    """Score features by retrieval: R@k is the share of queries with a video of their class among
    the k nearest of the gallery.

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
        report = retrieval_report(pair)
        splits.append({**pair.entry(), **{key: report[key] for key in _KEPT}})
        tables.append(retrieval_table(report))
    text = "\n".join([*tables, *remarks("retrieve", splits)])
    finish("retrieve", request, splits, pair.train, text=text)
