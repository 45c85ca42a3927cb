"""What tells one kind of training from another, for `fastdual.training.start`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import nn

from fastdual.config.sections import TrainingConfig
from fastdual.distributed.world import World
from fastdual.loaders.index import VideoIndex
from fastdual.loaders.loader import ClipBatch
from fastdual.training.execution import Execution
from fastdual.training.loop import StepOutput, Training


@dataclass(frozen=True)
class Start:
    """A run that is about to train, for those who describe it.

    Attributes:
        index: The videos.
        split: Those that are trained on; None: all.
        training: The state, restored already.
        execution: Device, precision and compilation.
        world: Which process of how many this is.
        restored: The checkpoint that the state came from; None: a new run.
        sources: Origin of each value of the config, by dotted key.
    """

    index: VideoIndex
    split: str | None
    training: Training
    execution: Execution
    world: World
    restored: Path | None
    sources: Mapping[str, str]


class Watch(Protocol):
    """Looks at every reading of a metric.

    Attributes:
        metric: Its name.
        event: What its warning is called in the log.
    """

    @property
    def metric(self) -> str: ...

    @property
    def event(self) -> str: ...

    def look(self, value: float, /, *, step: int) -> str | None:
        """Return a warning, once, when the readings have become hopeless."""


class Task(Protocol):
    """What one kind of training does in its own way.

    Attributes:
        kind: What its checkpoints hold to be told from those of other kinds.
        memory_remedy: What to change when the memory runs out.
        trains_backbone: Whether the backbone gets gradients.
        channel_multiple: What the backbone's middle channels are padded to; None: what suits the
            device.
    """

    @property
    def kind(self) -> Mapping[str, str]: ...

    @property
    def memory_remedy(self) -> str: ...

    @property
    def config(self) -> TrainingConfig: ...

    @property
    def trains_backbone(self) -> bool: ...

    @property
    def channel_multiple(self) -> int | None: ...

    def clips_per_forward(self, num_videos: int) -> int:
        """Return how many clips enter the network together, of so many videos of a process."""

    def check(self, index: VideoIndex, split: str | None, execution: Execution) -> None:
        """Raise an InputError unless videos and device suit the task."""

    def create_model(self) -> nn.Module:
        """Return the network, with a submodule `backbone`, drawn from torch's generator."""

    def create_step(
        self, model: nn.Module, execution: Execution
    ) -> tuple[nn.Module, Callable[[ClipBatch], StepOutput]]:
        """Return the losses, with whatever state they keep, and what a step computes.

        The model is on its device already.
        """

    def watches(self, steps_per_epoch: int, total_steps: int) -> Sequence[Watch]:
        """Return those who look at metrics of the task, and warn of what will not learn."""

    def chances(self) -> Mapping[str, float]:
        """Return the chance level of each accuracy that is logged, by the metric's name."""

    def describe(self, start: Start) -> list[str]:
        """Return what is going to be done, line by line, for people."""
