"""A pretrained backbone, ready for use: clips -> features, with its preprocessing."""

import torch
from torch import Tensor, nn

from fastdual.config import PretrainConfig
from fastdual.loaders.views.augment import IMAGENET_MEAN, IMAGENET_STD


class VideoEncoder(nn.Module):
    """A backbone, pooled: clips -> features; with the preprocessing of its training.

    Args:
        backbone: Maps [N, 3, T, H, W] to [N, F, t, h, w].
        config: Its clips (`config.clip`) and its name (`config.model.backbone`).
        weights_sha256: SHA-256 of the file with the weights, or "random weights, seed N".
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, config: PretrainConfig, *, weights_sha256: str) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = config
        self.weights_sha256 = weights_sha256
        self.feature_dim = int(backbone.feature_dim)  # type: ignore[arg-type]
        shape = (1, 3, 1, 1, 1)
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values).view(shape), persistent=False)

    def forward(self, clips: Tensor) -> Tensor:
        """Return features [N, F] of preprocessed clips [N, 3, T, H, W]."""
        maps: Tensor = self.backbone(clips)
        return maps.mean(dim=(2, 3, 4))

    def features(self, clips: Tensor) -> Tensor:
        """Return features [N, F] of clips [N, 3, T, H, W], as a DualModel does."""
        features: Tensor = self(clips)
        return features

    def preprocess(self, frames: Tensor) -> Tensor:
        """Resize frames, crop their centre and normalise them.

        Args:
            frames: uint8 RGB [N, T, H, W, 3], `config.clip.frames_per_clip` frames that lie
                `config.clip.frame_stride` apart in the video.

        Returns:
            Clips [N, 3, T, crop, crop] float32 for `forward`, on the network's device.

        Raises:
            ValueError: Frames of another dtype or shape.
        """
        if frames.ndim != 5 or frames.shape[-1] != 3 or frames.dtype != torch.uint8:
            raise ValueError(
                f"frames are {tuple(frames.shape)} {frames.dtype}, must be uint8 [N, T, H, W, 3]"
            )
        clip = self.config.clip
        count, time = frames.shape[:2]
        pictures = frames.to(self.mean.device).flatten(0, 1).permute(0, 3, 1, 2).float()
        size = (clip.resize_height, clip.resize_width)
        pictures = nn.functional.interpolate(
            pictures, size, mode="bilinear", align_corners=False, antialias=True
        )
        top, left = ((side - clip.crop_size + 1) // 2 for side in size)
        pictures = pictures[..., top : top + clip.crop_size, left : left + clip.crop_size]
        clips = pictures.reshape(count, time, *pictures.shape[1:]).transpose(1, 2)
        normalised: Tensor = (clips / 255 - self.mean) / self.std
        return normalised
