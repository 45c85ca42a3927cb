"""Shuffle-rank loss: among the segments of a clip and of its shuffled twin, the match comes first.

For Z = [x_1 .. x_S, w_1 .. w_S], w being the shuffled segments put back in order, G = Z Z^T, row r
with its match m(r) = r +- S and the 2S - 2 others o (arXiv:2107.01194, the intra-variance term):

    loss = mean over rows r and others o of softplus((G[r, o] - G[r, m(r)]) / temperature)
"""

import torch
from torch import Tensor

from fastdual.kernels import reference
from fastdual.kernels.checks import as_rank_numbers, check_permutation, check_segments
from fastdual.kernels.dispatch import Backend, takes_reference, widen_mixed
from fastdual.kernels.results import RankResult
from fastdual.kernels.shuffle_rank import op
from fastdual.kernels.shuffle_rank.problem import Problem


def shuffle_rank_loss(
    x: Tensor,
    shuffled: Tensor,
    permutation: Tensor,
    *,
    temperature: float = 0.05,
    clip: float | None = None,
    normalize: bool = False,
    backend: Backend = "auto",
) -> Tensor:
    """Return the loss of `shuffle_rank_loss_with_metrics` alone."""
    return shuffle_rank_loss_with_metrics(
        x, shuffled, permutation, temperature=temperature, clip=clip, normalize=normalize,
        backend=backend,
    ).loss  # fmt: skip


def shuffle_rank_loss_with_metrics(
    x: Tensor,
    shuffled: Tensor,
    permutation: Tensor,
    *,
    temperature: float = 0.05,
    clip: float | None = None,
    normalize: bool = False,
    backend: Backend = "auto",
) -> RankResult:
    """Return the shuffle-rank loss (arXiv:2107.01194) and its accuracy, from one pass.

    Args:
        x: [B, S, D] segments in order, 2 <= S <= 16; strided inputs are read in place.
            Sums are float32 under autocast, too.
        shuffled: [B, S, D] segments of the shuffled clip, as the network saw them.
        permutation: [B, S] int64 or int32; shuffled segment i is segment permutation[i] in order.
            Its values are checked on a CPU only, where this does not block.
        temperature: Divisor inside the softplus.
        clip: Largest argument of the softplus, beyond which the gradient is 0; None for no limit.
        normalize: L2-normalise all segments first, in the same pass.
        backend: See fastdual.losses.

    Returns:
        The loss (float64 for float64 inputs), and the share of rows whose match beats all others;
        0-d float32.

    Raises:
        ValueError: An argument does not fit; the message names it, its value and the rule.
        RuntimeError: Under torch.func, or in forward mode, unless `backend` is "eager".
    """
    x, shuffled = widen_mixed(x, shuffled)
    check_segments(x, shuffled)
    check_permutation(permutation, x)
    temperature, clip = as_rank_numbers(temperature, clip)
    if takes_reference(backend, x):
        with torch.autocast(x.device.type, enabled=False):
            return reference.shuffle_rank_loss_with_metrics(
                x, shuffled, permutation, temperature=temperature, clip=clip, normalize=normalize
            )
    return op.run(Problem(x, shuffled, permutation, temperature, clip, normalize))
