"""Learning rates by step, and the optimisers that they drive."""

import math

import pytest
import torch
from torch import nn

from fastdual.config.sections import OptimiserConfig, ScheduleConfig
from fastdual.training.schedule import base_learning_rate, create_optimiser, learning_rate

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


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_optimisers_take_one_step_of_their_textbook_rule(name: str) -> None:
    module = nn.Linear(3, 2, bias=False).double()
    before = module.weight.detach().clone()
    config = OptimiserConfig(name=name, learning_rate=0.1, momentum=0.9, weight_decay=0.01)
    optimiser = create_optimiser(module, config, fused=False)
    gradient = torch.arange(1.0, 7.0, dtype=torch.float64).reshape(2, 3)
    for _ in range(2):
        module.weight.grad = gradient.clone()
        optimiser.step()
    if name == "sgd":
        first = before - 0.1 * (gradient + 0.01 * before)
        velocity = 0.9 * (gradient + 0.01 * before) + gradient + 0.01 * first
        expected = first - 0.1 * velocity
    else:  # with equal gradients both moments are the gradient's own, so a step is its sign
        shrunk = before * (1 - 0.1 * 0.01) - 0.1 * gradient.sign()
        expected = shrunk * (1 - 0.1 * 0.01) - 0.1 * gradient.sign()
    torch.testing.assert_close(module.weight.detach(), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    ("rule", "expected"), [("none", 0.003), ("linear", 0.012), ("sqrt", 0.006)]
)
def test_a_rate_may_grow_with_the_batch_from_that_of_64_videos(rule: str, expected: float) -> None:
    config = OptimiserConfig(batch_scaling=rule)
    assert base_learning_rate(config, batch_size=256) == pytest.approx(expected, rel=1e-12)
    assert base_learning_rate(config, batch_size=64) == 0.003
