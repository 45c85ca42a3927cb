"""Writing beside the step: a copy of the state, one file at a time, failures told to the loop."""

import threading

import pytest
import torch

from fastdual.errors import FailureError
from fastdual.run.writer import CheckpointWriter, copy_state


def test_a_copy_does_not_change_with_its_state() -> None:
    state = {"a": {0: torch.zeros(3)}, "b": [torch.ones(2), (1, torch.ones(1))], "c": "text"}
    copy = copy_state(state)
    state["a"][0].add_(5)  # type: ignore[index]
    state["b"][0].add_(5)  # type: ignore[index]
    state["b"][1][1].add_(5)  # type: ignore[index]
    assert torch.equal(copy["a"][0], torch.zeros(3))
    assert torch.equal(copy["b"][0], torch.ones(2))
    assert copy["b"][1][0] == 1
    assert torch.equal(copy["b"][1][1], torch.ones(1))
    assert copy["c"] == "text"


def test_one_checkpoint_is_written_at_a_time_while_the_caller_goes_on() -> None:
    writer, first, order = CheckpointWriter(), threading.Event(), []

    def slow() -> None:
        assert first.wait(30)
        order.append("first")

    writer.start(slow)
    order.append("went on")
    timer = threading.Timer(0.05, first.set)
    timer.start()
    writer.start(lambda: order.append("second"))
    assert order[:2] == ["went on", "first"]
    writer.wait()
    assert order == ["went on", "first", "second"]


def test_what_fails_beside_the_step_is_raised_once_to_the_loop() -> None:
    writer = CheckpointWriter()

    def fail() -> None:
        raise FailureError("disk full")

    writer.start(fail)
    writer.join()
    with pytest.raises(FailureError, match="disk full"):
        writer.check()
    writer.wait()
    writer.start(fail)
    with pytest.raises(FailureError, match="disk full"):
        writer.start(lambda: None)
