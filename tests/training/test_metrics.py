"""Metrics that wait on the device."""

import math

import torch

from fastdual.training.metrics import MetricWindow


def window_of(*losses: float) -> MetricWindow:
    window = MetricWindow(watched=("loss", "norm"))
    for loss in losses:
        metrics = {"loss": loss, "other": loss / loss if loss else math.nan, "norm": 1.0}
        window.add({name: torch.tensor(value) for name, value in metrics.items()})
    return window


def test_read_gives_means_and_starts_anew() -> None:
    window = window_of(1.0, 2.0, 6.0)
    assert len(window) == 3
    summary = window.read()
    assert summary.means == {"loss": 3.0, "other": 1.0, "norm": 1.0}
    assert summary.bad_step is None
    assert len(window) == 0
    window.add({"loss": torch.tensor(5.0), "norm": torch.tensor(1.0)})
    assert window.read().means == {"loss": 5.0, "norm": 1.0}


def test_read_names_the_first_step_and_metric_that_is_not_finite() -> None:
    summary = window_of(1.0, 2.0, math.inf, math.nan).read()
    assert (summary.bad_step, summary.bad_metric) == (2, "loss")
    window = window_of(1.0, 2.0)
    bad = {"loss": torch.tensor(1.0), "other": torch.tensor(1.0), "norm": torch.tensor(math.nan)}
    window.add(bad)
    assert (window.read().bad_step, len(window)) == (2, 0)


def test_a_metric_that_is_not_watched_may_be_undefined() -> None:
    assert window_of(0.0).read().bad_step is None


def test_adding_keeps_no_graph() -> None:
    window = MetricWindow(watched=("loss",))
    weight = torch.ones((), requires_grad=True)
    window.add({"loss": weight * 2})
    assert window.read().means == {"loss": 2.0}
