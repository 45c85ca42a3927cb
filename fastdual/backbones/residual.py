"""Residual backbones with one block per stage: R(2+1)D, R3D, and a tiny R(2+1)D for CPUs.

The names of the state dict are those of the paper's released checkpoints.
"""

from torch import Tensor, nn

from fastdual.backbones.layers import FactoredConv3d, FullConv3d, Size3, initialise_he

ConvType = type[FactoredConv3d] | type[FullConv3d]


class ResidualBlock(nn.Module):
    """Two 3x3x3 convolutions and a shortcut; with `downsample`, halves T, H and W."""

    def __init__(
        self, conv: ConvType, in_channels: int, out_channels: int, *, downsample: bool
    ) -> None:
        super().__init__()
        stride = (2, 2, 2) if downsample else (1, 1, 1)
        if downsample:
            self.downsampleconv = conv(in_channels, out_channels, (1, 1, 1), stride)
            self.downsamplebn = nn.BatchNorm3d(out_channels)
        self.downsample = downsample
        self.conv1 = conv(in_channels, out_channels, (3, 3, 3), stride)
        self.bn1 = nn.BatchNorm3d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv(out_channels, out_channels, (3, 3, 3), (1, 1, 1))
        self.bn2 = nn.BatchNorm3d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, T, H, W] to [N, C', T', H', W']."""
        shortcut = self.downsamplebn(self.downsampleconv(x)) if self.downsample else x
        x = self.relu(self.bn1(self.conv1(x)))
        out: Tensor = self.relu(shortcut + self.bn2(self.conv2(x)))
        return out


class Stage(nn.Module):
    """One block; a separate module, so that its keys read `convN.block1.*`."""

    def __init__(
        self, conv: ConvType, in_channels: int, out_channels: int, *, downsample: bool
    ) -> None:
        super().__init__()
        self.block1 = ResidualBlock(conv, in_channels, out_channels, downsample=downsample)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, T, H, W] to [N, C', T', H', W']."""
        out: Tensor = self.block1(x)
        return out


class ResidualBackbone(nn.Module):
    """Stem, then four stages of one block each; the last three halve T, H and W.

    The defaults are those of the paper (arXiv:2107.01194).
    """

    def __init__(
        self,
        conv: ConvType,
        *,
        widths: tuple[int, int, int, int] = (64, 128, 256, 512),
        stem_kernel: Size3 = (3, 7, 7),
        stem_stride: Size3 = (1, 2, 2),
    ) -> None:
        super().__init__()
        self.feature_dim = widths[3]
        self.conv1 = conv(3, widths[0], stem_kernel, stem_stride)
        self.bn1 = nn.BatchNorm3d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = Stage(conv, widths[0], widths[0], downsample=False)
        self.conv3 = Stage(conv, widths[0], widths[1], downsample=True)
        self.conv4 = Stage(conv, widths[1], widths[2], downsample=True)
        self.conv5 = Stage(conv, widths[2], widths[3], downsample=True)

    def forward(self, clips: Tensor) -> Tensor:
        """Map [N, 3, T, H, W] to [N, F, T/8, H/16, W/16] (rounded up)."""
        x = self.relu(self.bn1(self.conv1(clips)))
        out: Tensor = self.conv5(self.conv4(self.conv3(self.conv2(x))))
        return out


def r2plus1d() -> ResidualBackbone:
    """Return the "R(2+1)D" of the paper (14.4 M parameters), which is not R(2+1)D-18."""
    return ResidualBackbone(FactoredConv3d)


def r3d() -> ResidualBackbone:
    """Return R3D with one block per stage (14.4 M parameters)."""
    return ResidualBackbone(FullConv3d)


def tiny() -> ResidualBackbone:
    """Return an R(2+1)D for two CPU cores: a few milliseconds per clip of 16x64x64."""
    backbone = ResidualBackbone(
        FactoredConv3d, widths=(16, 32, 64, 128), stem_kernel=(3, 5, 5), stem_stride=(1, 4, 4)
    )
    initialise_he(backbone)  # what its recipe was tuned on; it is no network of the paper's
    return backbone
