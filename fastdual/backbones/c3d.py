"""C3D (arXiv 1412.0767) with batch norm, without its last pooling and its classifier."""

import torch
from torch import Tensor, nn

# Name, channels out, pooling before it (T, H, W); one pooling that keeps the frames, then three
# that halve everything.
_LAYERS: tuple[tuple[str, int, tuple[int, int, int] | None], ...] = (
    ("1", 64, None),
    ("2", 128, (1, 2, 2)),
    ("3a", 256, (2, 2, 2)),
    ("3b", 256, None),
    ("4a", 512, (2, 2, 2)),
    ("4b", 512, None),
    ("5a", 512, (2, 2, 2)),
    ("5b", 512, None),
)


class C3D(nn.Module):
    """Eight 3x3x3 convolutions, each with batch norm and ReLU, and four max-poolings between."""

    def __init__(self) -> None:
        super().__init__()
        in_channels = 3
        for name, channels, _ in _LAYERS:
            self.add_module(f"conv{name}", nn.Conv3d(in_channels, channels, 3, padding=1))
            self.add_module(f"bn{name}", nn.BatchNorm3d(channels))
            in_channels = channels
        self.feature_dim = in_channels

    def forward(self, clips: Tensor) -> Tensor:
        """Map [N, 3, T, H, W] to [N, 512, T/8, H/16, W/16] (rounded down)."""
        x = clips
        for name, _, pool in _LAYERS:
            if pool is not None:
                x = nn.functional.max_pool3d(x, pool)
            conv, norm = getattr(self, f"conv{name}"), getattr(self, f"bn{name}")
            x = torch.relu_(norm(conv(x)))
        return x
