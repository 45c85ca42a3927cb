"""Sums over the segments of two views, as one batch of rows: what temporal coherence contrasts.

Two clips are as similar as their segments on average, (1 / S^2) sum_ij x_i . y_j, which is the
product of the sums of their segments, over S^2. Adding first takes S^2 times fewer products. It is
a sum and not a mean because its gradient is then the upstream gradient itself, a view that takes no
launch.

Legend: B clips per view, S segments, D embedding size.
"""

from typing import Any

import torch
from torch import Tensor

from fastdual.kernels.backend import device_of, runs_triton


@torch.library.custom_op("fastdual::segment_sums", mutates_args=())
def segment_sums(first: Tensor, second: Tensor) -> Tensor:
    """Return the sums over segments, added up in float32 at least.

    On a CUDA device this is one launch, and none in the backward.

    Args:
        first: [B, S, D] one view.
        second: [B, S, D] the other view, of the same dtype.

    Returns:
        [2B, D] in that dtype: the sums of the first view, then those of the second.
    """
    if runs_triton(first):
        from fastdual.kernels.segment_sums import triton

        with device_of(first):
            return triton.forward(first, second)
    dtype = torch.promote_types(first.dtype, torch.float32)
    return torch.cat([view.sum(dim=1, dtype=dtype) for view in (first, second)]).to(first.dtype)


@segment_sums.register_fake
def _(first: Tensor, second: Tensor) -> Tensor:
    return first.new_empty((2 * first.shape[0], first.shape[2]))


def _save_shape(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.shape = inputs[0].shape


def _backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor]:
    first, second = (part.unsqueeze(1).expand(ctx.shape) for part in upstream.chunk(2))
    return first, second


segment_sums.register_autograd(_backward, setup_context=_save_shape)
