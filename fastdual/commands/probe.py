"""`fastdual probe`: a linear classifier on frozen features."""

from typing import Any

import click

from fastdual.commands.shared.evaluation import (
    RecordedCommand,
    Request,
    evaluation_options,
    finish,
    load_pairs,
)


@click.command(cls=RecordedCommand)
@evaluation_options()
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Decides which training videos choose the penalty.",
)
def command(seed: int, **values: Any) -> None:
    """Fit a linear classifier on the features of the training split, measure it on the test split.

    The features are not changed. The penalty is chosen on training videos that share no group with
    the others. Top-1 and top-5 come with a 95 % bootstrap interval; the result file holds every
    class and all confusions too.

    \b
      fastdual probe RUN DATA                      embed both splits, then fit
      fastdual probe RUN ucf101.h5 --split ucf101-1 --split ucf101-2 --split ucf101-3
      fastdual probe features.h5                   a file of fastdual embed
    """
    from fastdual.evaluate.probe import probe

    request, splits = Request(**values), []
    for pair in load_pairs(request):
        result = probe(pair.train, pair.test, seed=seed)
        splits.append({**pair.entry(), **result.classification.report(), **result.details()})
    finish("probe", request, splits, pair.train, seed=seed)
