"""Pretraining: a dual model, the losses of the paper, and a watch for embeddings that collapse."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from fastdual.config import PretrainConfig
from fastdual.errors import InputError
from fastdual.kernels.backend import runs_triton
from fastdual.kernels.objective import Part
from fastdual.loaders.index import VideoIndex
from fastdual.model.dual import DualModel, create_model
from fastdual.training.announce import describe_pretraining
from fastdual.training.collapse import CollapseWatch
from fastdual.training.compiler import require_compiler
from fastdual.training.execution import Execution
from fastdual.training.plateau import RankPlateauWatch
from fastdual.training.step import PretrainStep, create_objective, query_groups
from fastdual.training.task import Start, Watch


@dataclass(frozen=True)
class Pretraining:
    """The task of `fastdual.training.start` that the paper's method is.

    Args:
        config: Of the run.
        initial: Weights that a new run begins with, by the model's names; the seed draws the rest.
    """

    config: PretrainConfig
    initial: Mapping[str, Tensor] = field(default_factory=dict)

    kind: ClassVar[Mapping[str, str]] = {}
    memory_remedy: ClassVar[str] = (
        "use a smaller --batch-size, optimiser.accumulate_chunks=2 or more, or "
        "run.recompute_activations=on with run.compile=off"
    )
    trains_backbone: ClassVar[bool] = True

    @property
    def channel_multiple(self) -> int | None:
        return self.config.model.channel_multiple

    def clips_per_forward(self, num_videos: int) -> int:
        views = max(map(len, query_groups(self.config)))
        return views * math.ceil(num_videos / self.config.optimiser.accumulate_chunks)

    def check(self, index: VideoIndex, split: str | None, execution: Execution) -> None:
        on_gpu = runs_triton(torch.empty(0, device=execution.device))
        if self.config.loss.backend == "fused" and not on_gpu:
            raise InputError(
                f"--losses fused: the kernels need Triton and a CUDA device, this run is on "
                f"{execution.device}; use --losses auto"
            )
        if self.config.loss.backend != "eager" and on_gpu:
            setting = f"--losses {self.config.loss.backend}"
            require_compiler(execution.device, setting=setting, remedy="use --losses eager")

    def create_model(self) -> DualModel:
        model = create_model(self.config)
        model.load_state_dict({**model.state_dict(), **self.initial})
        return model

    def create_step(self, model: nn.Module, execution: Execution) -> tuple[nn.Module, PretrainStep]:
        objective = create_objective(self.config, model).to(execution.device)
        return objective, PretrainStep(model, objective, self.config, execution)

    def watches(self, steps_per_epoch: int, total_steps: int) -> list[Watch]:
        loss, found = self.config.loss, list[Watch]()
        if Part.CLIP in loss.objective.parts:
            found = [CollapseWatch(loss.clip_temperature, steps_per_epoch=steps_per_epoch)]
        elif Part.COHERENCE in loss.objective.parts:  # ranking alone asks no videos to differ
            found = [CollapseWatch(loss.coherence_temperature, steps_per_epoch=steps_per_epoch)]
        if Part.RANK in loss.objective.parts:
            segments = self.config.clip.num_segments
            found.append(RankPlateauWatch(segments, total_steps=total_steps))
        return found

    def chances(self) -> dict[str, float]:
        """A row's other view is one of 2 B - 1 rows, or of a key and the queue."""
        config = self.config
        with_queue = config.model.framework == "moco"
        others = config.moco.queue_size if with_queue else 2 * config.data.batch_size - 2
        first = 1 / (1 + others)
        # A segment's match has to beat the S - 1 others of its clip and of the shuffled one.
        rank = 1 / (2 * config.clip.num_segments - 1)
        return {"clip_top1": first, "coherence_top1": first, "rank_accuracy": rank}

    def describe(self, start: Start) -> list[str]:
        return describe_pretraining(self.config, start)
