"""Hand-made networks whose pretext score is known, and the views that they are shown."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastdual.model.dual import DualModel


class Views(NamedTuple):
    """What the metrics read of a ClipBatch."""

    clips: Tensor
    permutation: Tensor
    video_ids: Tensor


class CodeReader(nn.Module):
    """A perfect network for clips whose pixels are the embedding: feature c is channel mean c."""

    feature_dim = 3

    def forward(self, clips: Tensor) -> Tensor:
        """[N, 3, T, H, W] -> the same."""
        return clips


class Heads(DualModel):
    """Embeds a clip by its own pixels: segment s by the mean of its part of the frames."""

    def __init__(self, num_segments: int) -> None:
        super().__init__(CodeReader(), num_segments=num_segments)

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """[N, 3, T, H, W] -> [N, 3], [N, S, 3]."""
        maps = self.backbone(clips)
        parts = maps.mean(dim=(3, 4)).unflatten(2, (self.num_segments, -1)).mean(dim=3)
        normalise = nn.functional.normalize
        return normalise(maps.mean(dim=(2, 3, 4))), normalise(parts.transpose(1, 2), dim=2)


def batches(num_videos: int, num_segments: int, *, shuffle: bool) -> Iterator[Views]:
    """Videos of noise, each with one code a segment; all views alike, view 3 permuted."""
    generator = torch.Generator().manual_seed(0)
    for start in range(0, num_videos, 4):
        codes = torch.randn(4, 3, num_segments, generator=generator)
        clips = codes.repeat_interleave(2, dim=2)[:, None, :, :, None, None].repeat(
            1, 4, 1, 1, 1, 1
        )
        permutation = torch.arange(num_segments).repeat(4, 1)
        if shuffle:
            permutation = permutation.roll(1, dims=1)
        blocks = clips[:, 3].unflatten(2, (num_segments, 2))
        for row in range(4):
            blocks[row] = blocks[row][:, permutation[row]]
        clips[:, 3] = blocks.flatten(2, 3)
        yield Views(clips, permutation, torch.arange(start, start + 4))
