"""The losses as plain PyTorch over the whole matrix of logits: the truth for the fused losses.

They are written to be read: each function materialises what its fused twin does not, is
differentiable by autograd alone, and works in float64 (half-precision inputs are computed in
float32, as the fused losses do).

Shape letters: N rows, M candidates, B samples, S segments, D embedding size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdual.kernels.checks import (
    as_rank_numbers,
    as_temperature,
    check_choice,
    check_contrast,
    check_permutation,
    check_segments,
)
from fastdual.kernels.results import ContrastiveResult, RankResult


def contrastive_loss(
    query: Tensor,
    key: Tensor,
    query_ids: Tensor,
    key_ids: Tensor,
    *,
    query_groups: Tensor | None = None,
    key_groups: Tensor | None = None,
    temperature: float | Tensor,
    positives: str = "sum",
    reduction: str = "mean",
    normalize: bool = False,
) -> Tensor:
    """Return the loss of `contrastive_loss_with_metrics` alone."""
    return contrastive_loss_with_metrics(
        query, key, query_ids, key_ids, query_groups=query_groups, key_groups=key_groups,
        temperature=temperature, positives=positives, reduction=reduction, normalize=normalize,
    ).loss  # fmt: skip


def contrastive_loss_with_metrics(
    query: Tensor,
    key: Tensor,
    query_ids: Tensor,
    key_ids: Tensor,
    *,
    query_groups: Tensor | None = None,
    key_groups: Tensor | None = None,
    temperature: float | Tensor,
    positives: str = "sum",
    reduction: str = "mean",
    normalize: bool = False,
) -> ContrastiveResult:
    """Return the multi-positive contrastive softmax and its metrics, over all N x M logits.

    Args, errors and sources are those of `fastdual.functional.contrastive_loss_with_metrics`.
    """
    temperature = as_temperature(temperature)
    check_contrast(query, key, (query_ids, key_ids), (query_groups, key_groups), temperature)
    check_choice("positives", positives, ("sum", "mean"))
    check_choice("reduction", reduction, ("mean", "none", "sum"))
    dtype = torch.promote_types(query.dtype, torch.float32)
    query, key = query.to(dtype), key.to(dtype)
    if normalize:
        query, key = F.normalize(query, dim=1), F.normalize(key, dim=1)
    logits = query @ key.T / temperature  # [N, M]

    ignored = torch.zeros_like(logits, dtype=torch.bool)
    if query_groups is not None and key_groups is not None:
        ignored = (query_groups[:, None] == key_groups) & (key_groups >= 0)
    positive = (query_ids[:, None] == key_ids) & (key_ids >= 0) & ~ignored
    negative = ~(positive | ignored)
    valid = positive.any(dim=1)

    rows = _row_losses(logits, positive, negative, valid, positives)
    best = logits.masked_fill(~positive, -torch.inf).amax(dim=1, keepdim=True)
    beaten_by = ((logits > best) & negative).sum(dim=1)
    return ContrastiveResult(
        _reduce(rows, valid, reduction), valid & (beaten_by < 1), valid & (beaten_by < 5), valid
    )


def _row_losses(
    logits: Tensor, positive: Tensor, negative: Tensor, valid: Tensor, positives: str
) -> Tensor:
    """Return the loss of each row [N], 0 where a row has no positive."""
    # All entries of a row without positives stand in for them: the result is finite, and the last
    # line replaces it.
    positive = positive | ~valid[:, None]
    all_lse = logits.masked_fill(~(positive | negative), -torch.inf).logsumexp(dim=1)
    if positives == "sum":
        rows = all_lse - logits.masked_fill(~positive, -torch.inf).logsumexp(dim=1)
    else:
        rows = all_lse - logits.masked_fill(~positive, 0).sum(dim=1) / positive.sum(dim=1)
    return rows.masked_fill(~valid, 0)


def _reduce(rows: Tensor, valid: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return rows
    return rows.sum() / valid.sum().clamp(min=1) if reduction == "mean" else rows.sum()


def unshuffle(shuffled: Tensor, permutation: Tensor) -> Tensor:
    """Put shuffled segments back in order: out[b, permutation[b, i]] = shuffled[b, i].

    Args:
        shuffled: [B, S, D] segments.
        permutation: [B, S] int64.
    """
    inverse = permutation.argsort(dim=1).unsqueeze(-1)
    # Not take_along_dim, which torch.compile would recompile for every batch size.
    return shuffled.gather(1, inverse.expand(shuffled.shape))


def shuffle_rank_loss(
    x: Tensor,
    shuffled: Tensor,
    permutation: Tensor,
    *,
    temperature: float = 0.05,
    clip: float | None = None,
    normalize: bool = False,
) -> Tensor:
    """Return the loss of `shuffle_rank_loss_with_metrics` alone."""
    return shuffle_rank_loss_with_metrics(
        x, shuffled, permutation, temperature=temperature, clip=clip, normalize=normalize
    ).loss


def shuffle_rank_loss_with_metrics(
    x: Tensor,
    shuffled: Tensor,
    permutation: Tensor,
    *,
    temperature: float = 0.05,
    clip: float | None = None,
    normalize: bool = False,
) -> RankResult:
    """Return the shuffle-rank loss and its accuracy, over all 2S x 2S similarities per sample.

    Args, errors and source are those of `fastdual.functional.shuffle_rank_loss_with_metrics`.
    """
    check_segments(x, shuffled)
    check_permutation(permutation, x)
    temperature, clip = as_rank_numbers(temperature, clip)
    batch, segments, _ = x.shape
    z = torch.cat([x, unshuffle(shuffled, permutation)], dim=1)  # [B, 2S, D]
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    if normalize:
        z = F.normalize(z, dim=-1)
    similarity = z @ z.transpose(1, 2)  # [B, 2S, 2S]
    rows = torch.arange(2 * segments, device=x.device)
    match_column = (rows + segments) % (2 * segments)
    match = similarity[:, rows, match_column].unsqueeze(-1)  # [B, 2S, 1]
    is_other = (rows != rows[:, None]) & (rows != match_column[:, None])
    violation = (similarity - match) / temperature
    if clip is not None:
        violation = violation.clamp(max=clip)
    accuracy = (~is_other | (match > similarity)).all(dim=-1).float().mean()
    # Not F.softplus, which is the identity beyond 20 and so is off by 2e-9 there.
    softplus = torch.logaddexp(violation, torch.zeros_like(violation)).masked_fill(~is_other, 0)
    return RankResult(softplus.sum() / (2 * batch * segments * (2 * segments - 2)), accuracy)
