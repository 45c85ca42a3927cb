"""Pretraining learns."""

from pathlib import Path
from typing import Any

from tests.training.keeper import ListKeeper, run


def test_the_network_learns_the_pretext_task(make_training: Any, tmp_path: Path) -> None:
    keeper = ListKeeper(tmp_path)
    settings = {"optimiser__name": "adamw", "optimiser__learning_rate": 0.002}
    run(make_training(schedule__epochs=20, **settings), keeper, log_every_steps=10)
    first, last = keeper.reports[0].metrics, keeper.reports[-1].metrics
    assert last["loss"] < 0.85 * first["loss"]
