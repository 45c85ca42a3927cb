"""Writing beside the step: a copy of the state, one file at a time, failures told to the loop."""

import threading
from contextlib import nullcontext

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


def test_a_gpu_writes_from_a_stream_of_the_device_that_copies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A thread's current device is the first one, whatever the process trains on."""
    made: list[object] = []

    class Event:
        device = torch.device("cuda:1")

        def record(self) -> None:
            made.append("recorded")

    class Stream:
        def __init__(self, device: torch.device) -> None:
            made.append(device)

        def wait_event(self, event: Event) -> None:
            made.append(event)

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext(made.append(stream)))
    writer = CheckpointWriter()
    writer.start(lambda: made.append("written"))
    writer.wait()
    recorded, device, event, stream, written = made
    assert (recorded, device, written) == ("recorded", torch.device("cuda:1"), "written")
    assert isinstance(event, Event) and isinstance(stream, Stream)
