"""Networks with random weights, and clips to try them on."""

import torch
from torch import Tensor

from fastdual.backbones import create_backbone
from fastdual.config import PretrainConfig
from fastdual.model.encoder import VideoEncoder


def random_encoder(name: str, seed: int = 3) -> VideoEncoder:
    torch.manual_seed(seed)
    config = PretrainConfig.from_dict({"model.backbone": name}, origin="test")
    return VideoEncoder(create_backbone(name), config, weights_sha256="ab" * 32).eval()


def clips_for(*, frames: int = 8, size: int = 32) -> Tensor:
    return torch.randn(2, 3, frames, size, size, generator=torch.Generator().manual_seed(1))
