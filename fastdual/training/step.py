"""What a pretraining step computes: from a batch of clips to a loss."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from fastdual.config import PretrainConfig
from fastdual.loaders.loader import ClipBatch
from fastdual.training.chunks import ChunkedEmbeddings, embed_without_graph
from fastdual.training.execution import Execution
from fastdual.training.loop import StepOutput
from fastdual.training.moco import MoCoObjective
from fastdual.training.objective import SimCLRObjective

Objective = SimCLRObjective | MoCoObjective
# [B, V, D] of clips and [B, V, S, D'] of segments.
Embeddings = tuple[Tensor, ...]


def create_objective(config: PretrainConfig, model: nn.Module) -> Objective:
    """Return the objective of a config; MoCo's copies the model as it is now."""
    if config.model.framework == "moco":
        return MoCoObjective(config, model)
    return SimCLRObjective(config.loss)


class PretrainStep:
    """Embeds the views, those of the trained network in one forward, then computes the losses.

    Args:
        model: The network to be trained.
        objective: The losses.
        execution: Device, precision and compilation.
        num_chunks: Parts of a batch that are embedded one after another; the gradient is that of
            the whole batch (fastdual.training.chunks).
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        execution: Execution,
        *,
        num_chunks: int = 1,
    ) -> None:
        self.execution, self.num_chunks = execution, num_chunks
        self.model = execution.compile(model)
        self.objective = objective
        self.momentum_encoder: nn.Module | None = None
        if isinstance(objective, MoCoObjective):
            self.momentum_encoder = execution.compile(objective.momentum_encoder)

    def __call__(self, batch: ClipBatch) -> StepOutput:
        """Return loss and metrics of a batch of clips [B, V, 3, T, H, W]."""
        self.execution.begin_step()
        num_chunks = min(self.num_chunks, len(batch.clips))
        keys = self._embed_keys(batch.clips, num_chunks)
        embed = partial(self._embed, self.model, self.objective.query_views)
        finish: Callable[[], None] | None = None
        if num_chunks == 1:
            embeddings = embed(batch.clips)
        else:
            chunked = ChunkedEmbeddings(embed, self.model, batch.clips, num_chunks=num_chunks)
            embeddings, finish = chunked.embeddings, chunked.backward
        if keys is not None:
            embeddings = _insert_view(embeddings, keys, place=1)
        output: StepOutput = self.objective(*embeddings, batch.permutation, batch.video_ids)
        return replace(output, finish_backward=finish)

    def _embed_keys(self, clips: Tensor, num_chunks: int) -> Embeddings | None:
        """Update the momentum encoder, and return its embeddings of its view."""
        if not isinstance(self.objective, MoCoObjective) or self.momentum_encoder is None:
            return None
        self.objective.follow(self.model)
        embed = partial(self._embed, self.momentum_encoder, self.objective.key_views)
        return embed_without_graph(embed, clips, num_chunks=num_chunks)

    def _embed(self, network: nn.Module, views: Sequence[int], clips: Tensor) -> Embeddings:
        """Embed some views of clips [B, V, 3, T, H, W] as [B, V', D] and [B, V', S, D']."""
        chosen = _choose_views(clips, views)
        with torch.autocast(self.execution.device.type, torch.bfloat16, self.execution.bf16):
            clip, segments = network(chosen.flatten(0, 1))
        shape = chosen.shape[:2]
        return clip.unflatten(0, shape), segments.unflatten(0, shape)


def _choose_views(clips: Tensor, views: Sequence[int]) -> Tensor:
    """Return some views of clips [B, V, 3, T, H, W], with channels last in memory as before."""
    if len(views) == clips.shape[1]:
        return clips
    memory = clips.permute(0, 1, 3, 4, 5, 2)
    # Slices: a list of numbers would be copied to the device, which waits for it.
    return torch.stack([memory[:, view] for view in views], dim=1).permute(0, 1, 5, 2, 3, 4)


def _insert_view(embeddings: Embeddings, view: Embeddings, *, place: int) -> Embeddings:
    return tuple(
        torch.cat([some[:, :place], more, some[:, place:]], dim=1)
        for some, more in zip(embeddings, view, strict=True)
    )
