"""Views of which segments are added up."""

import torch
from torch import Tensor

from fastdual.kernels.segment_sums.op import segment_sums


def segment_views(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Two views [5, 3, 300], the second one strided."""
    generator = torch.Generator().manual_seed(1)
    first, second = torch.randn(2, 5, 3, 300, generator=generator).to(dtype)
    return first, second.transpose(0, 2).contiguous().transpose(0, 2)


def sums_of_views(dtype: torch.dtype) -> Tensor:
    """Their sums, by the kernel where it is interpreted."""
    return segment_sums(*segment_views(dtype))
