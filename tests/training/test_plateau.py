"""The rank loss of a network that knows only places, and the warning when it stays there."""

from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch

from fastdual.losses import ShuffleRankLoss
from fastdual.training.plateau import RankPlateauWatch, rank_plateau
from tests.runs import arguments, invoke, read_log, write_index


def loss_of_places(num_segments: int, cosine: float, temperature: float) -> float:
    """Mean loss over all permutations, of embeddings that only say where a segment is played."""
    gram = torch.full((num_segments, num_segments), cosine, dtype=torch.float64)
    places = torch.linalg.cholesky(gram.fill_diagonal_(1.0))
    orders = torch.tensor([*permutations(range(num_segments))])
    rows = places.expand(len(orders), -1, -1)
    return ShuffleRankLoss(temperature)(rows, rows, orders).item()


@pytest.mark.parametrize("num_segments", [2, 3, 4])
@pytest.mark.parametrize("temperature", [0.05, 0.2])
def test_the_plateau_is_the_least_loss_of_places(num_segments: int, temperature: float) -> None:
    cosines = torch.linspace(0.0, 0.9995, 1000).tolist()
    losses = [loss_of_places(num_segments, cosine, temperature) for cosine in cosines]
    assert min(losses) == pytest.approx(rank_plateau(num_segments), abs=2e-4)
    assert rank_plateau(2) == pytest.approx(0.6507, abs=1e-4)


def test_readings_that_stay_late_in_a_run_are_warned_of_once() -> None:
    watch = RankPlateauWatch(2, total_steps=400)
    readings = [(step, 0.66) for step in range(10, 401, 10)]
    told = [step for step, rank in readings if watch.look(rank, step=step)]
    assert told == [300]  # the tenth reading after step 200
    left = RankPlateauWatch(2, total_steps=400)
    assert not any(left.look(0.7 - step / 2000, step=step) for step, _ in readings)
    scattered = RankPlateauWatch(2, total_steps=2)
    warnings = [scattered.look(0.66 + (-1) ** step * 0.1, step=step) for step in range(2, 12)]
    assert warnings[:-1] == [None] * 9
    assert "stays at 0.66, and 0.65 is what" in str(warnings[-1])
    assert "optimiser.learning_rate" in str(warnings[-1])


def test_a_run_that_learns_only_places_says_so(tmp_path: Path) -> None:
    """At a rate that changes nothing, the rank loss stays where it begins, above the plateau."""
    data, settings = write_index(tmp_path, count=4), dict[str, Any]()
    settings |= {"optimiser__learning_rate": 1e-9, "schedule__epochs": 24}
    result = invoke(arguments(data, tmp_path / "run", **settings, schedule__milestones="[]"))
    assert result.exit_code == 0, result.output
    assert result.stderr.count("nothing of its content: lower optimiser.learning_rate") == 1
    (event,) = read_log(tmp_path / "run", "plateau")
    assert event["step"] == 22
