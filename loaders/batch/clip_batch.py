"""ClipBatch: what a loader yields."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fastdual.loaders.plan import ClipPlan


@dataclass(frozen=True)
class ClipBatch:
    """The views of B videos.

    Attributes:
        clips: [B, V, C, T, H, W], normalised; pretraining's views are those of `ClipSpec.views`.
            The memory is channels-last: `clips.flatten(0, 1)` is channels_last_3d.
        permutation: [B, S] int64, or None; shuffled segment i is segment permutation[i] of view 2.
        video_ids: [B] int64 index numbers of the videos shown.
        labels: [B] int64 class numbers, -1 for none.
        plan: The decisions behind the clips.
        decoders: Who decoded each video: nvdec, dali-cpu or pyav.
    """

    clips: Tensor
    permutation: Tensor | None
    video_ids: Tensor
    labels: Tensor
    plan: ClipPlan
    decoders: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        sizes = [len(self.clips), len(self.video_ids), len(self.labels), len(self.plan)]
        if self.permutation is not None:
            sizes.append(len(self.permutation))
        if self.clips.ndim != 6 or len(set(sizes)) != 1:
            raise ValueError(
                f"clips {tuple(self.clips.shape)} must have 6 axes and as many rows as video_ids, "
                f"labels, plan and permutation: {sizes[1:]}"
            )

    def __repr__(self) -> str:
        shape, device = tuple(self.clips.shape), self.clips.device
        return f"ClipBatch(clips={shape} {self.clips.dtype} on {device})"

    def __len__(self) -> int:
        """Return the number of videos."""
        return len(self.clips)

    def to(self, device: str | torch.device, *, non_blocking: bool = False) -> ClipBatch:
        """Return the batch on another device; Lightning and Accelerate move any batch so."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> ClipBatch:
        """Return the batch in pinned memory, from which a GPU copies faster."""
        return self._with(lambda tensor: tensor.pin_memory())

    def _with(self, move: Callable[[Tensor], Tensor]) -> ClipBatch:
        return replace(
            self,
            clips=move(self.clips),
            permutation=None if self.permutation is None else move(self.permutation),
            video_ids=move(self.video_ids),
            labels=move(self.labels),
        )
