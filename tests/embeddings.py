"""Embeddings that tests give to losses."""

import torch
from torch import Tensor
from torch.nn import functional as F

BACKENDS = ["auto", "eager"]


def unit(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random unit vectors along the last axis."""
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(shape, generator=generator, dtype=torch.float64), dim=-1).to(
        dtype
    )


def dual_inputs(
    batch: int, segments: int, *, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Arguments of DualVarianceLoss: clip, segments, permutation, video ids."""
    clip = unit(batch, 4, 12, seed=seed, dtype=dtype)
    parts = unit(batch, 4, segments, 8, seed=seed + 1, dtype=dtype)
    generator = torch.Generator().manual_seed(seed + 2)
    permutation = torch.rand(batch, segments, generator=generator).argsort(dim=1)
    return clip, parts, permutation, torch.arange(batch)
