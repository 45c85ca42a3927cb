"""A collapse of the embeddings is noticed, once; learning is none."""

from functools import partial
from pathlib import Path
from typing import Any

import torch

from fastdual.loaders.loader import ClipBatch
from fastdual.training.collapse import CollapseWatch, embedding_spread
from fastdual.training.loop import StepOutput, Training
from tests.training.keeper import ListKeeper, run


def attract_only(training: Training, batch: ClipBatch) -> StepOutput:
    """Positives without negatives: all clips are drawn to one point, the way to collapse."""
    clip, _ = training.model(batch.clips[:, :2].flatten(0, 1))
    point = torch.nn.functional.normalize(torch.ones_like(clip), dim=-1)
    loss = (1 - (clip * point).sum(dim=-1)).mean()
    return StepOutput(loss, {"spread": embedding_spread(clip[::2])})


def test_a_network_that_collapses_is_noticed_and_one_that_learns_is_not(
    make_training: Any, tmp_path: Path
) -> None:
    for collapsing, epochs in ((False, 8), (True, 30)):
        training, keeper = make_training(schedule__epochs=epochs), ListKeeper(tmp_path)
        training.rate = lambda _: 0.05
        if collapsing:
            training.compute = partial(attract_only, training)
        run(training, keeper)
        watch = CollapseWatch(0.07, steps_per_epoch=len(training.loader))
        readings = [(r.metrics["spread"], r.step) for r in keeper.reports]
        warnings = [watch.look(spread, step=step) for spread, step in readings]
        assert len([text for text in warnings if text]) == int(collapsing), readings


def test_a_collapse_is_told_once_and_again_only_after_a_recovery() -> None:
    watch = CollapseWatch(0.1, steps_per_epoch=2)
    spreads = [0.001, 0.001, 0.009, 0.5, 0.009, 0.008, 0.001, 0.02, 0.001, 0.0]
    told = [n for n, spread in enumerate(spreads) if watch.look(spread, step=n + 1)]
    assert told == [5, 9]
