"""Shuffle-rank loss: among the segments of a clip and of its shuffled twin, the match comes first.

For Z = [x_1 .. x_S, w_1 .. w_S], w being the shuffled segments put back in order, G = Z Z^T, row r
with its match m(r) = r +- S and the 2S - 2 others o (arXiv:2107.01194, the intra-variance term):

    loss = mean over rows r and others o of softplus((G[r, o] - G[r, m(r)]) / temperature)

The kernels (shuffle_rank_triton.py) materialise neither the segments in order, nor the normalised
segments, nor G [B, 2S, 2S]: memory is O(B S D), the inputs and their gradients. Nothing is put back
in order either: that would only reorder the rows and columns of G, so the shuffled order is kept,
and a row's match is the row of the other half with the same segment number. The backward recomputes
G. Without the kernels the same steps run as torch operations, which do hold G.

Legend: B samples, S segments, D embedding size.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastdual.kernels.backend import device_of, refuse_transforms, runs_triton
from fastdual.kernels.reference import MAX_DIM
from fastdual.kernels.results import RankResult
from fastdual.kernels.shuffle_rank.checks import as_rank_numbers, check_rank_tensors


class _Pairs(NamedTuple):
    """What the path without kernels holds; [B, 2S, 2S] except z [B, 2S, D], scale [B, 2S, 1]."""

    z: Tensor
    scale: Tensor
    similarity: Tensor
    is_match: Tensor
    is_other: Tensor
    violation: Tensor


def _eager_pairs(
    x: Tensor, shuffled: Tensor, permutation: Tensor, temperature: float, normalize: bool
) -> _Pairs:
    """The kernels' steps with torch operations, in float32 at least."""
    z = torch.cat([x, shuffled], dim=1)
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    scale = z.new_ones(()).expand(*z.shape[:2], 1)
    if normalize:
        scale = 1.0 / z.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    with torch.autocast(z.device.type, enabled=False):
        similarity = (z @ z.transpose(1, 2)) * scale * scale.transpose(1, 2)
    in_order = torch.arange(x.shape[1], device=x.device).expand(permutation.shape)
    number = torch.cat([in_order, permutation], dim=1)  # [B, 2S]
    same = number.unsqueeze(2) == number.unsqueeze(1)
    itself = torch.eye(z.shape[1], dtype=torch.bool, device=x.device)
    is_match = same & ~itself
    match = torch.where(is_match, similarity, 0.0).sum(dim=2, keepdim=True)
    return _Pairs(z, scale, similarity, is_match, ~same, (similarity - match) / temperature)


def _eager_fwd(
    x: Tensor,
    shuffled: Tensor,
    permutation: Tensor,
    temperature: float,
    clip: float | None,
    normalize: bool,
) -> tuple[Tensor, Tensor]:
    pairs = _eager_pairs(x, shuffled, permutation, temperature, normalize)
    batch, segments, _ = x.shape
    violation = pairs.violation if clip is None else pairs.violation.clamp(max=clip)
    softplus = torch.logaddexp(violation, torch.zeros_like(violation))
    loss = torch.where(pairs.is_other, softplus, 0.0).sum()
    # A match beats all others where every violation is below zero.
    first = (~pairs.is_other | (pairs.violation < 0)).all(dim=2)
    rows = batch * 2 * segments
    return loss / (rows * (2 * segments - 2)), first.float().mean()


def _eager_bwd(
    upstream: Tensor,
    x: Tensor,
    shuffled: Tensor,
    permutation: Tensor,
    temperature: float,
    clip: float | None,
    normalize: bool,
) -> tuple[Tensor, Tensor]:
    pairs = _eager_pairs(x, shuffled, permutation, temperature, normalize)
    batch, segments, _ = x.shape
    slope = torch.where(pairs.is_other, pairs.violation.sigmoid(), 0.0)
    if clip is not None:
        slope = torch.where(pairs.violation > clip, 0.0, slope)
    num_pairs = batch * 2 * segments * (2 * segments - 2)
    slope = slope * (upstream / (num_pairs * temperature))
    slope = torch.where(pairs.is_match, -slope.sum(dim=2, keepdim=True), slope)
    mixing = slope + slope.transpose(1, 2)
    if normalize:
        # Through z / |z|: the part of the gradient along z itself is taken out.
        along = (mixing * pairs.similarity).sum(dim=2)
        mixing = (mixing - along.diag_embed()) * pairs.scale * pairs.scale.transpose(1, 2)
    with torch.autocast(x.device.type, enabled=False):
        grad = (mixing @ pairs.z).to(x.dtype)
    # Copies: the outputs of an op may not share memory.
    return grad[:, :segments].clone(), grad[:, segments:].clone()


@torch.library.custom_op("fastdual::shuffle_rank_fwd", mutates_args=())
def _shuffle_rank_fwd(
    x: Tensor,
    shuffled: Tensor,
    permutation: Tensor,
    temperature: float,
    clip: float | None,
    normalize: bool,
) -> tuple[Tensor, Tensor]:
    """Loss and accuracy, 0-d, float32 (float64 for float64 inputs)."""
    if runs_triton(x):
        from fastdual.kernels.shuffle_rank import triton as shuffle_rank_triton

        with device_of(x):
            return shuffle_rank_triton.launch_fwd(
                x, shuffled, permutation, temperature, clip, normalize
            )
    return _eager_fwd(x, shuffled, permutation, temperature, clip, normalize)


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
    """Gradients of x and shuffled, contiguous [B, S, D] in their dtype."""
    if runs_triton(x):
        from fastdual.kernels.shuffle_rank import triton as shuffle_rank_triton

        with device_of(x):
            return shuffle_rank_triton.launch_bwd(
                upstream, x, shuffled, permutation, temperature, clip, normalize
            )
    return _eager_bwd(upstream, x, shuffled, permutation, temperature, clip, normalize)


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


def shuffle_rank_loss_with_metrics(
    x: Tensor,
    shuffled: Tensor,
    permutation: Tensor,
    *,
    temperature: float = 0.05,
    clip: float | None = None,
    normalize: bool = False,
) -> RankResult:
    """Shuffle-rank loss and its accuracy, from one pass.

    Args:
        x: [B, S, D] segments in order, 2 <= S <= 16, D <= 1024; strided inputs are read in place.
            Under autocast nothing is cast: sums are float32 whatever the inputs are.
        shuffled: [B, S, D] segments of the shuffled clip, as the network saw them.
        permutation: [B, S] int64 or int32; shuffled segment i is segment permutation[i] in order.
        temperature: Divisor inside the softplus.
        clip: Largest argument of the softplus, beyond which the gradient is 0; None for no limit.
        normalize: L2-normalise every segment first, inside the kernel.

    Returns:
        loss 0-d, float32 (float64 for float64); accuracy 0-d float32, the share of the rows whose
        match beats all others. On a CUDA device this is two launches, the backward one.

    Raises:
        ValueError: If an argument does not fit. Values of `permutation` are checked on a CPU only,
            where no device has to be waited for.
    """
    check_rank_tensors(x, shuffled, permutation, max_dim=MAX_DIM)
    temperature, clip = as_rank_numbers(temperature, clip)
    refuse_transforms(x, shuffled)
    loss, accuracy = _shuffle_rank_fwd(x, shuffled, permutation, temperature, clip, normalize)
    return RankResult(loss, accuracy)


def shuffle_rank_loss(
    x: Tensor,
    shuffled: Tensor,
    permutation: Tensor,
    *,
    temperature: float = 0.05,
    clip: float | None = None,
    normalize: bool = False,
) -> Tensor:
    """The loss of `shuffle_rank_loss_with_metrics` alone."""
    return shuffle_rank_loss_with_metrics(
        x, shuffled, permutation, temperature=temperature, clip=clip, normalize=normalize
    ).loss
