"""Pretraining: a dual model, the losses of the paper, and a watch for embeddings that collapse."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from fastdual.config import PretrainConfig
from fastdual.config.recipe import Resolved
from fastdual.distributed.world import World
from fastdual.errors import InputError
from fastdual.kernels.backend import runs_triton
from fastdual.loaders.index import VideoIndex
from fastdual.model.dual import DualModel, create_model
from fastdual.run.folder import RunFolder
from fastdual.training.announce import describe_pretraining
from fastdual.training.collapse import CollapseWatch
from fastdual.training.execution import Execution
from fastdual.training.start import RunResult, run
from fastdual.training.step import PretrainStep, create_objective
from fastdual.training.task import Start


def pretrain(
    index: VideoIndex,
    folder: RunFolder,
    resolved: Resolved[PretrainConfig],
    *,
    world: World,
    announce: Callable[[str], None],
) -> RunResult:
    """Pretrain on an index, from the newest checkpoint of the folder if it holds one.

    Args:
        index: The videos.
        folder: Where everything is kept.
        resolved: The config, with the origin of each value.
        world: Which process of how many this is.
        announce: Called with each line of what is going to be done.

    Raises:
        InputError: Before anything is written, if the parts do not fit each other.
        FailureError: The disk is full, too many videos fail, or the loss is not finite.
    """
    task = Pretraining(resolved.config)
    return run(task, index, folder, resolved.sources, world=world, announce=announce)


@dataclass(frozen=True)
class Pretraining:
    """The task of `fastdual.training.start` that the paper's method is.

    Args:
        config: Of the run.
    """

    config: PretrainConfig

    kind: ClassVar[Mapping[str, str]] = {}
    memory_remedy: ClassVar[str] = (
        "use a smaller --batch-size, optimiser.accumulate_chunks=2 or more, or "
        "run.recompute_activations=on with run.compile=off"
    )
    trains_backbone: ClassVar[bool] = True

    def check(self, index: VideoIndex, split: str | None, execution: Execution) -> None:
        on_gpu = runs_triton(torch.empty(0, device=execution.device))
        if self.config.loss.backend == "fused" and not on_gpu:
            raise InputError(
                f"--losses fused: the kernels need Triton and a CUDA device, this run is on "
                f"{execution.device}; use --losses auto"
            )

    def create_model(self) -> DualModel:
        return create_model(self.config)

    def create_step(self, model: nn.Module, execution: Execution) -> tuple[nn.Module, PretrainStep]:
        objective = create_objective(self.config, model).to(execution.device)
        chunks = self.config.optimiser.accumulate_chunks
        return objective, PretrainStep(model, objective, execution, num_chunks=chunks)

    def watch(self, steps_per_epoch: int) -> CollapseWatch:
        return CollapseWatch(self.config.loss.clip_temperature, steps_per_epoch=steps_per_epoch)

    def describe(self, start: Start) -> list[str]:
        return describe_pretraining(self.config, start)
