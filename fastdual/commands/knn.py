"""`fastdual knn`: classification by the nearest training videos."""

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
@click.option("--k", type=click.IntRange(min=1), default=20, show_default=True, help="Votes.")
@click.option(
    "--temperature",
    type=click.FloatRange(min=0, min_open=True),
    default=0.07,
    show_default=True,
    help="A vote weighs exp(cosine / temperature).",
)
def command(k: int, temperature: float, **values: Any) -> None:
    """Classify each test video by a vote of the k nearest training videos. Nothing is trained.

    Fewer training videos than k: all of them vote.

    \b
      fastdual knn RUN DATA
      fastdual knn features.h5 --k 1               the accuracy is then R@1
    """
    from fastdual.evaluate.knn import knn

    request, splits = Request(**values), []
    for pair in load_pairs(request):
        votes = min(k, len(pair.train))
        result = knn(pair.train, pair.test, k=votes, temperature=temperature)
        splits.append({**pair.entry(), **result.report(), "votes": votes})
    finish("knn", request, splits, pair.train, k=k, temperature=temperature)
