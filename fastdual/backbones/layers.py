"""Convolutions of the residual backbones, and the initial weights that are not torch's own.

Batch norm follows every convolution, so the scale of its weights changes nothing but how fast SGD
turns them. A recipe's rate is meant for the weights that it was tuned on, so each family begins as
where it comes from: the paper's code has torch's own for R(2+1)D, R3D and C3D, a small normal for
S3D; torchvision has He's for the networks of 18 layers. Batch norm begins as the identity.

Shape letters: N clips, C channels, F features, T frames, H height, W width.
"""

from torch import Tensor, nn

Size3 = tuple[int, int, int]


def initialise_he(module: nn.Module) -> None:
    """Draw the weights of convolutions for ReLU (arXiv:1502.01852), by their outputs."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv3d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


def initialise_small(module: nn.Module) -> None:
    """Draw the weights of convolutions from a normal distribution of deviation 0.01."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv3d):
            nn.init.normal_(layer.weight, std=0.01)


class FactoredConv3d(nn.Module):
    """(2+1)D convolution: spatial, batch norm, ReLU, temporal; "same" padding, no biases."""

    def __init__(self, in_channels: int, out_channels: int, kernel: Size3, stride: Size3) -> None:
        super().__init__()
        time, height, width = kernel
        # About as many weights as the full convolution that the pair replaces.
        area = height * width
        full = time * area * in_channels * out_channels
        middle = full // (area * in_channels + time * out_channels)
        self.spatial_conv = nn.Conv3d(
            in_channels,
            middle,
            (1, height, width),
            stride=(1, stride[1], stride[2]),
            padding=(0, height // 2, width // 2),
            bias=False,
        )
        self.bn = nn.BatchNorm3d(middle)
        self.relu = nn.ReLU(inplace=True)
        self.temporal_conv = nn.Conv3d(
            middle,
            out_channels,
            (time, 1, 1),
            stride=(stride[0], 1, 1),
            padding=(time // 2, 0, 0),
            bias=False,
        )

    def halves(self) -> tuple[nn.Conv3d, nn.BatchNorm3d, nn.Conv3d]:
        """Return the layers that share the middle channels: spatial, batch norm, temporal."""
        return self.spatial_conv, self.bn, self.temporal_conv

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, T, H, W] to [N, C', T', H', W']."""
        x = self.relu(self.bn(self.spatial_conv(x)))
        out: Tensor = self.temporal_conv(x)
        return out


class FullConv3d(nn.Module):
    """One 3D convolution over time and space; "same" padding, no bias."""

    def __init__(self, in_channels: int, out_channels: int, kernel: Size3, stride: Size3) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.temporal_spatial_conv = nn.Conv3d(
            in_channels, out_channels, kernel, stride=stride, padding=padding, bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, T, H, W] to [N, C', T', H', W']."""
        out: Tensor = self.temporal_spatial_conv(x)
        return out
