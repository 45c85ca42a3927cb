"""The losses as plain PyTorch over the whole logit matrix: the truth that the fused ones are held to.

Readable first: every function materialises what its fused twin does not, is differentiable by autograd
alone, and works in float64 (half-precision inputs are computed in float32, as the fused losses do).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdual.kernels.checks import check_choice, check_ids, check_pair, check_temperature
from fastdual.kernels.results import ContrastiveResult

MAX_DIM = 1024


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
    """The loss alone; see `contrastive_loss_with_metrics`."""
    return contrastive_loss_with_metrics(
        query,
        key,
        query_ids,
        key_ids,
        query_groups=query_groups,
        key_groups=key_groups,
        temperature=temperature,
        positives=positives,
        reduction=reduction,
        normalize=normalize,
    ).loss


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
    """Multi-positive contrastive softmax; arguments as `fastdual.kernels.contrastive_loss`."""
    check_pair(query, key, max_dim=MAX_DIM)
    check_ids("query_ids", query_ids, query.shape[0], "query")
    check_ids("key_ids", key_ids, key.shape[0], "key")
    check_temperature(temperature)
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
    """Loss of each row [N]; 0 where a row has no positive."""
    # A row without positives gets all its entries as stand-ins: finite, and cut off by the last line.
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


# ------------------------------------------------------------------------------- shuffle-rank loss
