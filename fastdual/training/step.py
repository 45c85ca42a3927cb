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
from fastdual.training.moco import KEY_VIEW, MoCoObjective
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
    """Embeds the views that the objective compares, then computes the losses.

    Args:
        model: The network to be trained.
        objective: The losses.
        config: Says which views there are and which share a forward. A batch may be embedded in
            parts, one after another; the gradient is that of the whole (fastdual.training.chunks).
        execution: Device, precision and compilation.
    """

    def __init__(
        self, model: nn.Module, objective: Objective, config: PretrainConfig, execution: Execution
    ) -> None:
        self.execution, self.num_chunks = execution, config.optimiser.accumulate_chunks
        self.model = execution.compile(model)
        self.objective = objective
        self.momentum_encoder: nn.Module | None = None
        if isinstance(objective, MoCoObjective) and objective.has_keys:
            self.momentum_encoder = execution.compile(objective.momentum_encoder)
        self._loaded, self._groups = config.clip.views, query_groups(config)

    def __call__(self, batch: ClipBatch) -> StepOutput:
        """Return loss and metrics of clips [B, V, 3, T, H, W], the views of the config."""
        self.execution.begin_step()
        num_chunks = min(self.num_chunks, len(batch.clips))
        keys = self._embed_keys(batch.clips, num_chunks)
        embed = partial(self._embed, self.model, self._groups)
        finish: Callable[[], None] | None = None
        if num_chunks == 1:
            embeddings = embed(batch.clips)
        else:
            chunked = ChunkedEmbeddings(embed, self.model, batch.clips, num_chunks=num_chunks)
            embeddings, finish = chunked.embeddings, chunked.backward
        if keys is None and KEY_VIEW not in self._loaded:  # ranking alone has no view there
            keys = tuple(torch.zeros_like(part[:, :1]) for part in embeddings)
        if keys is not None:
            embeddings = _insert_view(embeddings, keys, place=KEY_VIEW)
        output: StepOutput = self.objective(*embeddings, batch.permutation, batch.video_ids)
        return replace(output, finish_backward=finish)

    def _embed_keys(self, clips: Tensor, num_chunks: int) -> Embeddings | None:
        """Update the momentum encoder, and return its embeddings of its view."""
        if not isinstance(self.objective, MoCoObjective) or self.momentum_encoder is None:
            return None
        self.objective.follow(self.model)
        embed = partial(self._embed, self.momentum_encoder, ((KEY_VIEW,),))
        return embed_without_graph(embed, clips, num_chunks=num_chunks)

    def _embed(
        self, network: nn.Module, groups: Sequence[tuple[int, ...]], clips: Tensor
    ) -> Embeddings:
        """Embed groups of views of clips [B, V, 3, T, H, W] as [B, V', D] and [B, V', S, D']."""
        parts = []
        for views in groups:
            chosen = _choose_views(clips, [self._loaded.index(view) for view in views])
            with torch.autocast(self.execution.device.type, torch.bfloat16, self.execution.bf16):
                embedded = network(chosen.flatten(0, 1))
            parts.append(tuple(part.unflatten(0, chosen.shape[:2]) for part in embedded))
        if len(parts) == 1:
            return parts[0]
        return tuple(torch.cat(column, dim=1) for column in zip(*parts, strict=True))


def query_groups(config: PretrainConfig) -> tuple[tuple[int, ...], ...]:
    """Return the views that the trained network embeds, rising; those of a group in one forward."""
    has_keys = config.model.framework == "moco"
    views = [view for view in config.clip.views if not (has_keys and view == KEY_VIEW)]
    if config.model.batch_norm_views != "original":
        return (tuple(views),)
    # The released SimCLR embeds the shuffled view by itself, its MoCo view 0.
    last_of_first = 0 if has_keys else 2
    groups = ([v for v in views if v <= last_of_first], [v for v in views if v > last_of_first])
    return tuple(tuple(group) for group in groups if group)


def _choose_views(clips: Tensor, places: Sequence[int]) -> Tensor:
    """Return the views at some places of clips [B, V, 3, T, H, W], channels last in memory."""
    if len(places) == clips.shape[1]:
        return clips
    memory = clips.permute(0, 1, 3, 4, 5, 2)
    # Slices: a list of numbers would be copied to the device, which waits for it.
    return torch.stack([memory[:, place] for place in places], dim=1).permute(0, 1, 5, 2, 3, 4)


def _insert_view(embeddings: Embeddings, view: Embeddings, *, place: int) -> Embeddings:
    return tuple(
        torch.cat([some[:, :place], more, some[:, place:]], dim=1)
        for some, more in zip(embeddings, view, strict=True)
    )
