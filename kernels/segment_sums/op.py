"""Sums over the segments of two views, as one batch of rows: what temporal coherence contrasts.

Two clips are as similar as their segments on average, (1 / S^2) sum_ij x_i . y_j, which is the
product of the sums of their segments over S^2: added first, products are S^2 times fewer. A sum and
not a mean, for its gradient is the upstream one as it is, a view that takes no launch.

Legend: B clips of a view, S segments, D embedding size.
"""

from typing import Any

import torch
from torch import Tensor

from fastdual.kernels.backend import device_of, runs_triton


@torch.library.custom_op("fastdual::segment_sums", mutates_args=())
def segment_sums(first: Tensor, second: Tensor) -> Tensor:
    """Views [B, S, D] of one dtype -> sums [2B, D] in it, of the first view, then of the second.

    Added up in float32 at least. On a CUDA device one launch, and none in the backward.
    """
    if runs_triton(first):
        from fastdual.kernels.segment_sums import triton as segment_sums_triton

        with device_of(first):
            return segment_sums_triton.launch(first, second)
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
