"""S3D and S3D-G (arXiv 1712.04851): an Inception network with separable 3D convolutions.

The state dict has the names of the released checkpoints, where each layer appears twice: under its
own name (`Mixed_3b`) and as a member of its block (`block3.1`). Both are the same tensors.
"""

import torch
from torch import Tensor, nn

from fastdual.backbones.layers import initialise_small

# Channels of a block's four branches: 1x1 | 1x1 -> 3x3x3 | 1x1 -> 3x3x3 | pool -> 1x1
Branches = tuple[int, tuple[int, int], tuple[int, int], int]
_BLOCKS: dict[str, tuple[tuple[str, Branches], ...]] = {
    "block3": (
        ("Mixed_3b", (64, (96, 128), (16, 32), 32)),
        ("Mixed_3c", (128, (128, 192), (32, 96), 64)),
    ),
    "block4": (
        ("Mixed_4b", (192, (96, 208), (16, 48), 64)),
        ("Mixed_4c", (160, (112, 224), (24, 64), 64)),
        ("Mixed_4d", (128, (128, 256), (24, 64), 64)),
        ("Mixed_4e", (112, (144, 288), (32, 64), 64)),
        ("Mixed_4f", (256, (160, 320), (32, 128), 128)),
    ),
    "block5": (
        ("Mixed_5b", (256, (160, 320), (32, 128), 128)),
        ("Mixed_5c", (384, (192, 384), (48, 128), 128)),
    ),
}


class PointwiseConv3d(nn.Module):
    """1x1x1 convolution, batch norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, 1, bias=False)
        self.bn = nn.BatchNorm3d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, T, H, W] to [N, C', T, H, W]."""
        return torch.relu_(self.bn(self.conv(x)))


class SeparableConv3d(nn.Module):
    """Spatial then temporal convolution, each with batch norm and ReLU; "same" padding."""

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel: int, stride: int = 1
    ) -> None:
        super().__init__()
        pad = kernel // 2
        self.conv1 = nn.Conv3d(
            in_channels,
            out_channels,
            (1, kernel, kernel),
            stride=(1, stride, stride),
            padding=(0, pad, pad),
            bias=False,
        )
        self.conv2 = nn.Conv3d(
            out_channels,
            out_channels,
            (kernel, 1, 1),
            stride=(stride, 1, 1),
            padding=(pad, 0, 0),
            bias=False,
        )
        self.bn1 = nn.BatchNorm3d(out_channels)
        self.bn2 = nn.BatchNorm3d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, T, H, W] to [N, C', T', H', W']."""
        x = torch.relu_(self.bn1(self.conv1(x)))
        return torch.relu_(self.bn2(self.conv2(x)))


class FeatureGating(nn.Module):
    """Scales each channel by a sigmoid of a linear map of all channels' means (the G of S3D-G)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, T, H, W] to the same shape."""
        gate = torch.sigmoid(self.fc(x.mean(dim=(2, 3, 4))))
        return x * gate[:, :, None, None, None]


class InceptionBlock(nn.Module):
    """Four parallel branches, concatenated; with `gating`, each branch is gated."""

    def __init__(self, in_channels: int, branches: Branches, *, gating: bool) -> None:
        super().__init__()
        width0, (reduce1, width1), (reduce2, width2), width3 = branches
        self.branch0 = nn.Sequential(PointwiseConv3d(in_channels, width0))
        self.branch1 = nn.Sequential(
            PointwiseConv3d(in_channels, reduce1), SeparableConv3d(reduce1, width1, kernel=3)
        )
        self.branch2 = nn.Sequential(
            PointwiseConv3d(in_channels, reduce2), SeparableConv3d(reduce2, width2, kernel=3)
        )
        self.branch3 = nn.Sequential(
            nn.MaxPool3d(3, stride=1, padding=1), PointwiseConv3d(in_channels, width3)
        )
        self.out_channels = width0 + width1 + width2 + width3
        self.gating = gating
        if gating:
            self.gating_b0 = FeatureGating(width0)
            self.gating_b1 = FeatureGating(width1)
            self.gating_b2 = FeatureGating(width2)
            self.gating_b3 = FeatureGating(width3)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, T, H, W] to [N, C', T, H, W]."""
        out = [self.branch0(x), self.branch1(x), self.branch2(x), self.branch3(x)]
        if self.gating:
            gates = (self.gating_b0, self.gating_b1, self.gating_b2, self.gating_b3)
            out = [gate(branch) for gate, branch in zip(gates, out, strict=True)]
        return torch.cat(out, dim=1)


class S3D(nn.Module):
    """Stem of two separable convolutions, then nine Inception blocks in three groups."""

    def __init__(self, *, gating: bool) -> None:
        super().__init__()
        self.Conv_1a = SeparableConv3d(3, 64, kernel=7, stride=2)
        self.block1 = nn.Sequential(self.Conv_1a)
        self.Conv_2b = PointwiseConv3d(64, 64)
        self.Conv_2c = SeparableConv3d(64, 192, kernel=3)
        self.block2 = nn.Sequential(_halve_space(), self.Conv_2b, self.Conv_2c)
        channels = 192
        pools = {"block3": _halve_space(), "block4": _halve_all(3), "block5": _halve_all(2)}
        for block, members in _BLOCKS.items():
            layers: list[nn.Module] = [pools[block]]
            for name, branches in members:
                inception = InceptionBlock(channels, branches, gating=gating)
                self.add_module(name, inception)
                layers.append(inception)
                channels = inception.out_channels
            self.add_module(block, nn.Sequential(*layers))
        self.feature_dim = channels
        initialise_small(self)

    def forward(self, clips: Tensor) -> Tensor:
        """Map [N, 3, T, H, W] to [N, 1024, T/8, H/32, W/32]."""
        x = clips
        for block in ("block1", "block2", "block3", "block4", "block5"):
            x = getattr(self, block)(x)
        return x


def _halve_space() -> nn.MaxPool3d:
    return nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))


def _halve_all(kernel: int) -> nn.MaxPool3d:
    return nn.MaxPool3d(kernel, stride=2, padding=1 if kernel == 3 else 0)


def s3d() -> S3D:
    """Return S3D (7.9 M parameters)."""
    return S3D(gating=False)


def s3d_g() -> S3D:
    """Return S3D with feature gating (9.1 M parameters)."""
    return S3D(gating=True)
