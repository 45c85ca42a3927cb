"""The shuffle-rank loss as two torch ops, forward and backward: loss.py holds the formula.

The kernels (triton.py) materialise neither the segments in order, nor the normalised segments, nor
G [B, 2S, 2S]: memory is O(B S D), the inputs and their gradients. The segments are not even put
back in order, which would only reorder the rows and columns of G: the shuffled order is kept, and
the match of a row is the row of the other half with the same segment number. The backward computes
G again. Without the kernels, steps.py takes the same steps as torch operations.

Legend: B samples, S segments, D embedding size.
"""

from typing import Any

import torch
from torch import Tensor

from fastdual.kernels.backend import device_of, refuse_transforms, runs_triton
from fastdual.kernels.results import RankResult
from fastdual.kernels.shuffle_rank import steps
from fastdual.kernels.shuffle_rank.problem import Problem


def run(problem: Problem) -> RankResult:
    """Return loss and accuracy of a problem, differentiable once in x and shuffled.

    On a CUDA device the forward is two launches, the backward one.

    Raises:
        RuntimeError: Under torch.func, or in forward mode.
    """
    refuse_transforms(problem.x, problem.shuffled)
    return RankResult(*_shuffle_rank_fwd(*problem))


@torch.library.custom_op("fastdual::shuffle_rank_fwd", mutates_args=())
def _shuffle_rank_fwd(
    x: Tensor,
    shuffled: Tensor,
    permutation: Tensor,
    temperature: float,
    clip: float | None,
    normalize: bool,
) -> tuple[Tensor, Tensor]:
    """Return loss and accuracy, 0-d, float32 (float64 for float64 inputs)."""
    problem = Problem(x, shuffled, permutation, temperature, clip, normalize)
    if runs_triton(x):
        from fastdual.kernels.shuffle_rank import triton

        with device_of(x):
            return triton.forward(problem)
    return steps.forward(problem)


@_shuffle_rank_fwd.register_fake
def _(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(x.dtype, torch.float32)
    return x.new_empty((), dtype=dtype), x.new_empty((), dtype=torch.float32)


@torch.library.custom_op("fastdual::shuffle_rank_bwd", mutates_args=())
def _shuffle_rank_bwd(
    upstream: Tensor,
    x: Tensor,
    shuffled: Tensor,
    permutation: Tensor,
    temperature: float,
    clip: float | None,
    normalize: bool,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and shuffled, contiguous [B, S, D] in their dtype."""
    problem = Problem(x, shuffled, permutation, temperature, clip, normalize)
    if runs_triton(x):
        from fastdual.kernels.shuffle_rank import triton

        with device_of(x):
            return triton.backward(upstream, problem)
    return steps.backward(upstream, problem)


@_shuffle_rank_bwd.register_fake
def _(upstream: Tensor, x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, shuffled, permutation, *ctx.options = inputs
    ctx.save_for_backward(x, shuffled, permutation)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, upstream: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if upstream is None:
        return (None,) * 6
    grads = _shuffle_rank_bwd(upstream, *ctx.saved_tensors, *ctx.options)
    return *grads, None, None, None, None


def _refuse_double_backward(ctx: Any, *_: Any) -> None:
    raise RuntimeError(
        "the fused shuffle_rank_loss can be differentiated once only; "
        "use backend='eager' (fastdual.kernels.reference) for second derivatives"
    )


_shuffle_rank_fwd.register_autograd(_backward, setup_context=_save_for_backward)
_shuffle_rank_bwd.register_autograd(_refuse_double_backward)
