"""The dual representation: a backbone, pooled, under a clip head and a segment head.

Shapes: N clips (all views of a batch at once), F features, S segments, D embedding size.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastdual.backbones import create_backbone
from fastdual.config import PretrainConfig


class DualModel(nn.Module):
    """Backbone -> global average pool -> a clip embedding, and one per temporal segment.

    Args:
        backbone: Maps [N, 3, T, H, W] to [N, F, t, h, w] and has the attribute `feature_dim` = F.
        num_segments: S, segments per clip.
        clip_dim: Size of a clip embedding.
        segment_dim: Size of a segment embedding.
    """

    def __init__(
        self, backbone: nn.Module, *, num_segments: int, clip_dim: int = 128, segment_dim: int = 64
    ) -> None:
        super().__init__()
        feature_dim = int(backbone.feature_dim)  # type: ignore[arg-type]
        self.num_segments = num_segments
        self.backbone = backbone
        self.clip_head = _projection_head(feature_dim, clip_dim)
        self.segment_head = _projection_head(feature_dim, num_segments * segment_dim)

    def features(self, clips: Tensor) -> Tensor:
        """Return pooled features [N, F] of clips [N, 3, T, H, W]."""
        maps: Tensor = self.backbone(clips)
        return maps.mean(dim=(2, 3, 4))

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Embed clips [N, 3, T, H, W] as clip embeddings [N, D] and segment embeddings [N, S, D'].

        Both are L2-normalised, in float32 under autocast, too.
        """
        features = self.features(clips)
        clip: Tensor = self.clip_head(features)
        segments: Tensor = self.segment_head(features).unflatten(1, (self.num_segments, -1))
        return normalise(clip), normalise(segments)


def normalise(embeddings: Tensor) -> Tensor:
    """Scale embeddings [..., D] to length 1, in float32 (float64 stays float64)."""
    wide = embeddings if embeddings.dtype == torch.float64 else embeddings.float()
    return F.normalize(wide, dim=-1)


def _projection_head(feature_dim: int, output_dim: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(feature_dim, feature_dim), nn.ReLU(), nn.Linear(feature_dim, output_dim)
    )


def create_model(config: PretrainConfig) -> DualModel:
    """Return the model that a config describes, freshly initialised from torch's generator."""
    backbone = create_backbone(
        config.model.backbone,
        clip_shape=config.clip.clip_shape,
        channel_multiple=config.model.channel_multiple or 1,
    )
    return DualModel(
        backbone,
        num_segments=config.clip.num_segments,
        clip_dim=config.model.clip_dim,
        segment_dim=config.model.segment_dim,
    )
