"""A tiny encoder trains alike on every backend."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastdual.losses import DualVarianceLoss


def train(backend: str, device: str, *, steps: int = 200) -> Tensor:
    """Loss curve [steps, 4] of a tiny encoder on synthetic clips; same data for any backend."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    batch, num_segments = 16, 2
    encoder = nn.Sequential(
        nn.Conv3d(1, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool3d((4, 2, 2)), nn.Flatten(),
        nn.Linear(128, 24 + num_segments * 12),
    ).to(device)  # fmt: skip
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.02, momentum=0.9)
    loss = DualVarianceLoss(backend=backend)
    videos = torch.randn(64, 1, 8, 3, 3, generator=generator).repeat_interleave(4, 3)
    videos = videos.repeat_interleave(4, 4)
    curve = []
    for _ in range(steps):
        ids = torch.randperm(64, generator=generator)[:batch]
        permutation = torch.rand(batch, num_segments, generator=generator).argsort(dim=1)
        noise = torch.randn(3, batch, 1, 8, 12, 12, generator=generator)
        views = videos[ids] + noise
        halves = views[2].unflatten(2, (num_segments, -1))
        shuffled = halves.take_along_dim(permutation[:, None, :, None, None, None], dim=2)
        clips = torch.stack([*views, shuffled.flatten(2, 3)], dim=1).to(device)
        out = encoder(clips.flatten(0, 1)).unflatten(0, (batch, 4))
        clip = F.normalize(out[..., :24], dim=-1)
        segments = F.normalize(out[..., 24:].unflatten(-1, (num_segments, 12)), dim=-1)
        result = loss(clip, segments, permutation.to(device), ids.to(device))
        optimizer.zero_grad()
        result.total.backward()
        optimizer.step()
        curve.append(torch.stack([result.total, result.clip, result.coherence, result.rank]))
    return torch.stack(curve).detach().cpu()


def assert_same_curve(ours: Tensor, eager: Tensor) -> None:
    """The first steps agree to rounding, all 200 to 1e-3: training amplifies it."""
    torch.testing.assert_close(ours[:10], eager[:10], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours, eager, rtol=1e-3, atol=1e-3)
    assert eager[-20:, 0].mean() < 0.7 * eager[:20, 0].mean()  # it did learn


def test_streamed_and_eager_losses_train_alike() -> None:
    assert_same_curve(train("auto", "cpu"), train("eager", "cpu"))


@pytest.mark.gpu
def test_fused_and_eager_losses_train_alike() -> None:
    assert_same_curve(train("fused", "cuda"), train("eager", "cuda"))
