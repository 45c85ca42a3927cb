"""The training loop, shared by pretraining and fine-tuning.

The loop knows steps, state and time. `Training.compute` says what a step computes, and a `Keeper`
gets the results. Nothing in a step waits for the device: metrics are read every few steps.
"""

import math
import shlex
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Protocol

import torch
from torch import Tensor, nn

from fastdual.errors import FailureError
from fastdual.loaders.loader import ClipBatch, ClipLoader
from fastdual.loaders.plan import ClipPlan
from fastdual.run.reading import StepReport, estimate_steps
from fastdual.training.metrics import MetricWindow
from fastdual.training.optimisers import load_optimiser_state

# Share of the newest reading in the running step time that the time left is computed from.
_NEWEST_SHARE = 0.3
# Steps after which every weight that takes part has moved or got a gradient.
_STEPS_TO_MOVE = 5


@dataclass(frozen=True)
class StepOutput:
    """What a step computed, all on the device.

    Attributes:
        loss: 0-d, with its graph.
        metrics: Detached, 0-d, by name.
        finish_backward: Completes the gradients after the backward of the loss.
        gradient_norms: [weights] of those that got a gradient, after the backward.
    """

    loss: Tensor
    metrics: dict[str, Tensor]
    finish_backward: Callable[[], None] | None = None
    gradient_norms: Tensor | None = None

    def backward(self) -> None:
        """Compute the gradient of every weight."""
        self.loss.backward()  # type: ignore[no-untyped-call]
        if self.finish_backward is not None:
            self.finish_backward()


@dataclass(kw_only=True)
class Training:
    """Everything that a step changes, hence everything that a checkpoint holds.

    Attributes:
        model: The network; saved and loaded under its own names, never as compiled.
        objective: The losses, with whatever state they keep.
        optimiser: Over the weights of both.
        loader: Yields batches and knows its place in the order.
        compute: From a batch to a loss, through the (compiled) model and the objective.
        rate: Learning rate by step.
        total_steps: Length of the run.
        max_gradient_norm: Gradients are scaled down to it; None: never.
        average: Replaces gradients, in place, by their means over processes; None: one process.
        step: Steps done.
    """

    model: nn.Module
    objective: nn.Module
    optimiser: torch.optim.Optimizer
    loader: ClipLoader
    compute: Callable[[ClipBatch], StepOutput]
    rate: Callable[[int], float]
    total_steps: int
    max_gradient_norm: float | None = None
    average: Callable[[list[Tensor]], None] | None = None
    step: int = 0

    STATE: ClassVar[tuple[str, ...]] = ("step", "model", "objective", "optimiser", "order", "rng")

    def state_dict(self) -> dict[str, Any]:
        """Return the state after `step` steps, of tensors and plain values; its keys are STATE."""
        device = next(self.model.parameters()).device
        rng = {"cpu": torch.get_rng_state()}
        if device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(device)
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "objective": self.objective.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "order": self.loader.state_dict(),
            "rng": rng,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state of a model and an objective with this layout."""
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.objective.load_state_dict(state["objective"])
        load_optimiser_state(self.optimiser, state["optimiser"])
        self.loader.load_state_dict(state["order"])
        torch.set_rng_state(state["rng"]["cpu"])
        device = next(self.model.parameters()).device
        if device.type == "cuda" and "cuda" in state["rng"]:
            torch.cuda.set_rng_state(state["rng"]["cuda"], device)


class Keeper(Protocol):
    """Keeps what a run produces."""

    def meet(self) -> None:
        """Wait on the host until all processes have taken the step."""

    def report(self, report: StepReport) -> None:
        """Show and log a reading."""

    def save(self, training: Training) -> None:
        """Take the state for a checkpoint, which may be written while training goes on."""

    def wait_saved(self) -> None:
        """Wait until all checkpoints are written."""

    def save_plan(self, plan: ClipPlan, *, step: int) -> Path:
        """Write the plan of a batch for replay, and return the file."""


def train(
    training: Training,
    keeper: Keeper,
    *,
    log_every_steps: int,
    checkpoint_every_steps: int,
    should_stop: Callable[[], bool],
    keep_every_steps: int | None = None,
) -> bool:
    """Take steps until the run is complete or `should_stop` says so; both end with a checkpoint.

    Args:
        training: The state, changed in place.
        keeper: Gets readings, states and plans.
        log_every_steps: Steps between two readings.
        checkpoint_every_steps: Steps between two checkpoints.
        should_stop: Called after each step.
        keep_every_steps: Steps between two checkpoints that stay for good; None: there are none.

    Returns:
        Whether the run is complete.

    Raises:
        FailureError: A loss or gradient was not finite, or gradients were lost: exactly 0 for all
            weights since the last reading, or for most since the start. Nothing after it is saved.
    """
    meter = _Meter(training)
    early_readings = estimate_steps(training.step, training.total_steps)
    while training.step < training.total_steps:
        for batch in training.loader:
            output = take_step(training, batch)
            training.step += 1
            meter.add(batch, output)
            complete = training.step == training.total_steps
            stopping = complete or should_stop()
            saving = stopping or any(
                every and training.step % every == 0
                for every in (checkpoint_every_steps, keep_every_steps)
            )
            logging = training.step % log_every_steps == 0 or training.step in early_readings
            # Read before saving, so that weights that are not finite never reach a checkpoint.
            if saving or logging:
                # Reading metrics blocks until this device is done, and a collective on it can
                # block forever. So meet on the host first: that wait has a time limit, and its
                # error names the ranks that did not come.
                keeper.meet()
                keeper.report(meter.read(keeper))
            if saving:
                keeper.save(training)
            if stopping:
                keeper.wait_saved()
                return complete
    return True


def take_step(training: Training, batch: ClipBatch) -> StepOutput:
    """Take one step: rate, forward, backward, update. Nothing in it waits for the device."""
    optimiser = training.optimiser
    for group in optimiser.param_groups:
        group["lr"] = training.rate(training.step)
    output = training.compute(batch)
    optimiser.zero_grad(set_to_none=True)
    output.backward()
    weights = [w for group in optimiser.param_groups for w in group["params"] if w.grad is not None]
    gradients = [w.grad for w in weights if w.grad is not None]
    if training.average is not None:
        training.average(gradients)
    norms = torch.stack(torch._foreach_norm(gradients))
    norm = torch.linalg.vector_norm(norms)
    if training.max_gradient_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(weights, training.max_gradient_norm, norm)
    optimiser.step()
    metrics = {"loss": output.loss.detach(), **output.metrics, "gradient_norm": norm}
    return StepOutput(output.loss, metrics, gradient_norms=norms)


class _Meter:
    """Metrics, plans and time since the last reading."""

    def __init__(self, training: Training) -> None:
        self._training = training
        self._window = MetricWindow(watched=("loss", "gradient_norm"))
        self._plans: deque[ClipPlan] = deque()
        self._num_clips = 0
        self._num_steps = 0
        self._largest_norms: Tensor | None = None  # [weights] since the start
        self._seconds_per_step = math.nan
        self._restart_clock()

    def add(self, batch: ClipBatch, output: StepOutput) -> None:
        norms, largest = output.gradient_norms, self._largest_norms
        assert norms is not None
        self._largest_norms = norms if largest is None else torch.maximum(largest, norms)
        self._num_steps += 1
        self._window.add(output.metrics)
        self._plans.append(batch.plan)
        self._num_clips += batch.clips.shape[0] * batch.clips.shape[1]

    def read(self, keeper: Keeper) -> StepReport:
        training, num_steps = self._training, len(self._window)
        summary = self._window.read()
        if summary.bad_step is not None:
            self._stop(
                keeper,
                summary.bad_step - num_steps,
                f"{summary.bad_metric} is not finite",
                "lower optimiser.learning_rate or set optimiser.max_gradient_norm",
            )
        self._check_gradients(keeper, summary.means["gradient_norm"])
        seconds = time.perf_counter() - self._started
        waited = training.loader.data_wait_seconds - self._waited_before
        self._note_step_time(seconds / num_steps)
        report = StepReport(
            step=training.step,
            total_steps=training.total_steps,
            epoch=training.step / len(training.loader),
            learning_rate=training.rate(training.step - 1),
            metrics=summary.means,
            clips_per_second=self._num_clips / seconds,
            data_wait_share=min(waited / seconds, 1.0),
            seconds_left=self._seconds_per_step * (training.total_steps - training.step),
        )
        self._plans.clear()
        self._num_clips = 0
        self._restart_clock()
        return report

    def _check_gradients(self, keeper: Keeper, mean_norm: float) -> None:
        """Stop where gradients are lost on their way; the heads may still get theirs."""
        assert self._largest_norms is not None
        num_weights = len(self._largest_norms)
        num_lost, since = num_weights, "since the last reading"
        if mean_norm > 0:
            num_lost, since = int((self._largest_norms == 0).sum()), "since the start"
            # A branch that starts at zero passes no gradient on before it has moved.
            if self._num_steps < _STEPS_TO_MOVE or num_lost <= num_weights / 2:
                return
        self._stop(
            keeper,
            -1,
            f"the gradient of {num_lost} of {num_weights} weights was exactly 0 {since}",
            "there the network is not compiled: if it shows gradients, torch.compile loses them "
            "here, so set run.compile=off or take another torch",
        )

    def _stop(self, keeper: Keeper, place: int, why: str, remedy: str) -> NoReturn:
        """Raise a FailureError on a step, counted from the newest back (-1); keep its plan."""
        step = self._training.step + place
        file = shlex.quote(str(keeper.save_plan(self._plans[place], step=step)))
        raise FailureError(
            f"step {step}: {why}, so the run stops and keeps its last checkpoint; look where with "
            f"`fastdual replay {file} DATA` (DATA as given to this run); {remedy}"
        )

    def _note_step_time(self, seconds: float) -> None:
        before = seconds if math.isnan(self._seconds_per_step) else self._seconds_per_step
        self._seconds_per_step = before + _NEWEST_SHARE * (seconds - before)

    def _restart_clock(self) -> None:
        self._started = time.perf_counter()
        self._waited_before = self._training.loader.data_wait_seconds
