"""Learning rates by step and by batch size."""

import math
from typing import Any

import pytest

from fastdual.config.sections import OptimiserConfig, ScheduleConfig
from fastdual.training.schedule import base_learning_rate, learning_rate

PAPER = ScheduleConfig()


def rate(step: int, schedule: ScheduleConfig, steps_per_epoch: int = 10) -> float:
    return learning_rate(step, schedule, base_rate=0.003, steps_per_epoch=steps_per_epoch)


def test_paper_schedule_drops_tenfold_at_the_start_of_epochs_120_and_160() -> None:
    assert rate(0, PAPER) == rate(1199, PAPER) == 0.003
    assert rate(1200, PAPER) == rate(1599, PAPER) == pytest.approx(0.0003, rel=1e-12)
    assert rate(1600, PAPER) == rate(1999, PAPER) == pytest.approx(0.00003, rel=1e-12)


def test_warm_up_rises_linearly_and_ends_at_the_base_rate() -> None:
    schedule = ScheduleConfig(epochs=10, milestones=(5,), warmup_epochs=0.4)
    rates = [rate(step, schedule) for step in range(6)]
    assert rates == pytest.approx([0.00075, 0.0015, 0.00225, 0.003, 0.003, 0.003], rel=1e-12)


def test_cosine_starts_at_the_base_rate_halves_in_the_middle_and_ends_near_zero() -> None:
    schedule = ScheduleConfig(epochs=10, kind="cosine", milestones=())
    assert rate(0, schedule) == 0.003
    assert rate(50, schedule) == pytest.approx(0.0015, rel=1e-12)
    assert 0 < rate(99, schedule) < 1e-5
    assert rate(100, schedule) == pytest.approx(0.0, abs=1e-18)


def test_cosine_counts_from_the_end_of_the_warm_up() -> None:
    schedule = ScheduleConfig(epochs=10, kind="cosine", warmup_epochs=2)
    assert rate(20, schedule) == 0.003
    middle = 0.003 * 0.5 * (1 + math.cos(math.pi / 2))
    assert rate(60, schedule) == pytest.approx(middle, rel=1e-12)


@pytest.mark.parametrize(
    ("rule", "expected"), [("none", 0.003), ("linear", 0.012), ("sqrt", 0.006)]
)
def test_a_rate_may_grow_with_the_batch_from_that_of_64_videos(rule: str, expected: float) -> None:
    config = OptimiserConfig(batch_scaling=rule)
    assert base_learning_rate(config, batch_size=256) == pytest.approx(expected, rel=1e-12)
    assert base_learning_rate(config, batch_size=64) == 0.003


@pytest.mark.parametrize("kind", ["step", "cosine"])
def test_a_run_shorter_than_its_warm_up_rises_over_its_first_half(kind: Any) -> None:
    schedule = ScheduleConfig(epochs=1, kind=kind, milestones=(), warmup_epochs=5)
    rates = [learning_rate(s, schedule, base_rate=1.0, steps_per_epoch=8) for s in range(8)]
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert all(0 < rate <= 1 for rate in rates[4:])
