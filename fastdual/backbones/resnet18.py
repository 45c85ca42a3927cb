"""R(2+1)D-18 and R3D-18 (arXiv 1711.11248) in torchvision's layout.

The state dicts of torchvision's `r2plus1d_18` and `r3d_18` load unchanged except for `fc.*`, the
classifier, which a backbone does not have.
"""

from torch import Tensor, nn

from fastdual.backbones.layers import Size3, initialise_he

WIDTHS = (64, 128, 256, 512)


class FactoredSequential(nn.Sequential):
    """Spatial convolution, batch norm, ReLU, temporal convolution, and in a stem their sequel."""

    def halves(self) -> tuple[nn.Conv3d, nn.BatchNorm3d, nn.Conv3d]:
        """Return the layers that share the middle channels: spatial, batch norm, temporal."""
        spatial, norm, temporal = self[0], self[1], self[3]
        assert isinstance(spatial, nn.Conv3d) and isinstance(temporal, nn.Conv3d)
        assert isinstance(norm, nn.BatchNorm3d)
        return spatial, norm, temporal


def _convolution(
    factored: bool, in_channels: int, out_channels: int, stride: int, middle: int
) -> nn.Module:
    if factored:
        return FactoredSequential(
            nn.Conv3d(in_channels, middle, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False),
            nn.BatchNorm3d(middle),
            nn.ReLU(inplace=True),
            nn.Conv3d(middle, out_channels, (3, 1, 1), (stride, 1, 1), (1, 0, 0), bias=False),
        )
    return nn.Conv3d(in_channels, out_channels, 3, stride, padding=1, bias=False)


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut; stride 2 halves T, H and W."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, factored: bool) -> None:
        super().__init__()
        # Both convolutions of a block share the middle width of the first: torchvision's way.
        middle = (27 * in_channels * out_channels) // (9 * in_channels + 3 * out_channels)
        self.conv1 = nn.Sequential(
            _convolution(factored, in_channels, out_channels, stride, middle),
            nn.BatchNorm3d(out_channels),
            nn.ReLU(inplace=True),
        )
        self.conv2 = nn.Sequential(
            _convolution(factored, out_channels, out_channels, 1, middle),
            nn.BatchNorm3d(out_channels),
        )
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv3d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm3d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, T, H, W] to [N, C', T', H', W']."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out: Tensor = self.relu(self.conv2(self.conv1(x)) + shortcut)
        return out


class ResNet18(nn.Module):
    """Stem, then four layers of two blocks each; the last three halve T, H and W."""

    def __init__(self, *, factored: bool) -> None:
        super().__init__()
        self.feature_dim = WIDTHS[-1]
        self.stem: nn.Sequential
        if factored:
            self.stem = FactoredSequential(
                *_conv_norm_relu(3, 45, (1, 7, 7), (1, 2, 2)),
                *_conv_norm_relu(45, WIDTHS[0], (3, 1, 1), (1, 1, 1)),
            )
        else:
            self.stem = nn.Sequential(*_conv_norm_relu(3, WIDTHS[0], (3, 7, 7), (1, 2, 2)))
        channels = WIDTHS[0]
        for number, width in enumerate(WIDTHS, start=1):
            stride = 1 if number == 1 else 2
            layer = nn.Sequential(
                BasicBlock(channels, width, stride=stride, factored=factored),
                BasicBlock(width, width, stride=1, factored=factored),
            )
            self.add_module(f"layer{number}", layer)
            channels = width
        initialise_he(self)

    def forward(self, clips: Tensor) -> Tensor:
        """Map [N, 3, T, H, W] to [N, 512, T/8, H/16, W/16] (rounded up)."""
        x: Tensor = self.stem(clips)
        for number in range(1, len(WIDTHS) + 1):
            x = getattr(self, f"layer{number}")(x)
        return x


def _conv_norm_relu(
    in_channels: int, out_channels: int, kernel: Size3, stride: Size3
) -> list[nn.Module]:
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    return [
        nn.Conv3d(in_channels, out_channels, kernel, stride, padding, bias=False),
        nn.BatchNorm3d(out_channels),
        nn.ReLU(inplace=True),
    ]


def r2plus1d_18() -> ResNet18:
    """Return R(2+1)D-18 (31.3 M parameters without the classifier)."""
    return ResNet18(factored=True)


def r3d_18() -> ResNet18:
    """Return R3D-18 (33.2 M parameters without the classifier)."""
    return ResNet18(factored=False)
