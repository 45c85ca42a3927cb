"""The forward of the contrastive softmax as torch operations, one tile of logits at a time.

This runs without a GPU or without Triton, and for float64. It takes the same steps as the kernels
(triton_forward.py, triton_merge.py), and like them never holds the [N, M] logits: only one tile of
TILE x TILE exists at a time, so memory is O((N + M) D). The backward is streaming_backward.py.
"""

import torch
from torch import Tensor

from fastdual.kernels.contrastive.problem import (
    BEST_POSITIVE,
    NEGATIVE_LSE,
    NEGATIVE_MEAN,
    NUM_FIELDS,
    NUM_FIELDS_WITH_METRICS,
    NUM_TOP,
    POSITIVE_COUNT,
    POSITIVE_LSE,
    POSITIVE_MEAN,
    POSITIVE_SUM,
    TOP_NEGATIVES,
    Merged,
    Partials,
    Problem,
    Settings,
)
from fastdual.kernels.contrastive.streaming_tiles import (
    Tile,
    length_scales,
    make_tile,
    scaled_rows,
    tiles,
)


def compute_partials(problem: Problem) -> Partials:
    """Return what the rows gather from all candidates, in one part."""
    query, key = problem.query, problem.columns
    query_scale = length_scales(query, problem)
    own = problem.key is None
    key_scale = query_scale.new_empty(0) if own else length_scales(key, problem)
    num_fields = NUM_FIELDS_WITH_METRICS if problem.settings.metrics else NUM_FIELDS
    fields = query.new_full((1, num_fields, query.shape[0]), -torch.inf, dtype=problem.dtype)
    fields[0, POSITIVE_COUNT : POSITIVE_MEAN + 1] = 0
    masses = query.new_zeros((2, query.shape[0]), dtype=problem.dtype)
    with torch.autocast(query.device.type, enabled=False):
        for rows, columns, mirrored in tiles(problem):
            q = scaled_rows(query, query_scale, rows, problem)
            k = scaled_rows(key, query_scale if own else key_scale, columns, problem)
            tile = make_tile(problem, q, k, rows, columns)
            _gather_fields(problem, fields[0, :, rows], masses[:, rows], tile, 1)
            if mirrored:
                _gather_fields(problem, fields[0, :, columns], masses[:, columns], tile, 0)
    for lse, mean, mass in (
        (NEGATIVE_LSE, NEGATIVE_MEAN, masses[0]),
        (POSITIVE_LSE, POSITIVE_MEAN, masses[1]),
    ):
        fields[0, lse] += mass.log()
        fields[0, mean] /= mass.clamp(min=1)  # it is at least 1, where there is anything
    return Partials(fields, query_scale, key_scale)


def _gather_fields(problem: Problem, fields: Tensor, masses: Tensor, tile: Tile, dim: int) -> None:
    """Add a tile to the fields [F, N] of its rows (dim 1), or of its columns (dim 0), in place.

    Until the last tile, the field of a log-sum-exp holds the highest logit so far, and that of a
    mean the sum of e^(logit - highest) x logit; `masses` [2, N] are the sums of
    e^(logit - highest). One logarithm per tile would round a log-sum-exp once per tile.
    """
    logits, positive, excluded = tile
    negatives = logits if excluded is None else logits.masked_fill(excluded, -torch.inf)
    running = fields[NEGATIVE_LSE], masses[0], fields[NEGATIVE_MEAN]
    _add_part(problem, *running, negatives, logits, dim)
    if problem.settings.metrics:
        top = negatives.topk(min(NUM_TOP, negatives.shape[dim]), dim=dim).values
        top = torch.cat([fields[TOP_NEGATIVES:], top if dim == 0 else top.T])
        fields[TOP_NEGATIVES:] = top.topk(NUM_TOP, dim=0).values
    if positive is None:
        return
    positives = logits.masked_fill(~positive, -torch.inf)
    running = fields[POSITIVE_LSE], masses[1], fields[POSITIVE_MEAN]
    highest = _add_part(problem, *running, positives, logits, dim)
    fields[POSITIVE_COUNT] += positive.sum(dim)
    if problem.settings.positives == "mean":
        fields[POSITIVE_SUM] += logits.masked_fill(~positive, 0).sum(dim)
    if problem.settings.metrics:
        fields[BEST_POSITIVE] = fields[BEST_POSITIVE].maximum(highest)


def _add_part(
    problem: Problem,
    peak: Tensor,
    mass: Tensor,
    moment: Tensor,
    part: Tensor,
    logits: Tensor,
    dim: int,
) -> Tensor:
    """Add a part of the logits, -inf elsewhere, to running sums; return each row's highest."""
    highest = part.amax(dim)
    higher = torch.maximum(peak, highest)
    base = higher.masked_fill(higher == -torch.inf, 0)
    weights = (part - base.unsqueeze(dim)).exp_()
    kept = (peak - base).exp()
    mass.mul_(kept).add_(weights.sum(dim))
    if problem.settings.learned:
        moment.mul_(kept).add_(weights.mul_(logits).sum(dim))
    peak.copy_(higher)
    return highest


def _shares(logits: Tensor, lse: Tensor) -> Tensor:
    """Return e^(logits - lse), and 0 where both are of nothing."""
    return (logits - lse.masked_fill(lse == -torch.inf, 0)).exp()


def merge_partials(fields: Tensor, settings: Settings) -> Merged:
    """Return the loss and what the backward needs, from the fields [P, F, N] of all parts."""
    positives, reduction = settings.positives, settings.reduction
    negative_lse = fields[:, NEGATIVE_LSE].logsumexp(dim=0)
    positive_lse = fields[:, POSITIVE_LSE].logsumexp(dim=0)
    count = fields[:, POSITIVE_COUNT].sum(dim=0)
    valid = count > 0
    # log(1 + e^d) keeps its digits where negatives weigh next to nothing; all_lse - positive_lse
    # does not.
    rows = torch.logaddexp(torch.zeros_like(count), negative_lse - positive_lse)
    if positives == "mean":
        rows = rows + (positive_lse - fields[:, POSITIVE_SUM].sum(dim=0) / count)
    rows = rows.masked_fill(~valid, 0)
    hits = fields.new_empty((3, 0), dtype=torch.bool)
    if settings.metrics:
        best = fields[:, BEST_POSITIVE].amax(dim=0)
        beaten_by = (fields[:, TOP_NEGATIVES:] > best).sum(dim=(0, 1))
        hits = torch.stack([valid & (beaten_by < 1), valid & (beaten_by < NUM_TOP), valid])
    statistics = statistics_of(negative_lse, positive_lse, count, positives)
    num_valid = valid.sum().to(fields.dtype)
    slope = fields.new_empty(0)
    if settings.learned:
        slopes = _temperature_slopes(fields, negative_lse, positive_lse, count, positives)
        slope = _reduce(slopes.masked_fill(~valid, 0), num_valid, reduction)
    return Merged(_reduce(rows, num_valid, reduction), num_valid, hits, statistics, slope)


def _reduce(rows: Tensor, num_valid: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return rows
    return rows.sum() / num_valid.clamp(min=1) if reduction == "mean" else rows.sum()


def _temperature_slopes(
    fields: Tensor, negative_lse: Tensor, positive_lse: Tensor, count: Tensor, positives: str
) -> Tensor:
    """Return d loss / d log(1 / temperature) of each row [N]: the sum of slopes x logits.

    That is the mean of all logits less the mean of the positives, weighted by their softmax ("sum")
    or plain ("mean"). It would cancel where the positives have nearly all of the mass, so it is
    computed from the mean of the negatives, times their share of the mass.
    """
    negative_mean, positive_mean = (
        (_shares(fields[:, part_lse], lse) * fields[:, mean]).sum(dim=0)
        for part_lse, lse, mean in (
            (NEGATIVE_LSE, negative_lse, NEGATIVE_MEAN),
            (POSITIVE_LSE, positive_lse, POSITIVE_MEAN),
        )
    )
    share = torch.sigmoid(negative_lse - positive_lse)
    slopes = share * (negative_mean - positive_mean)
    if positives == "mean":
        plain_mean = fields[:, POSITIVE_SUM].sum(dim=0) / count
        # With one positive both means are the same but for their rounding.
        slopes = slopes + (positive_mean - plain_mean).masked_fill(count == 1, 0)
    return slopes


def statistics_of(
    negative_lse: Tensor, positive_lse: Tensor, count: Tensor, positives: str
) -> Tensor:
    """Return numbers a and b of each row, for "mean" also r and u: [2, N] or [4, N].

    The backward computes the slope w = d loss / d l of a logit l from them. A negative has
    w = e^(l - b), where b is the log-sum-exp of all candidates. At a positive the textbook's
    softmax - 1 cancels, so the share `beta` of the mass that the negatives have is used:

        "sum":   w = -e^(l - a), with a = positive_lse - log(beta)
        "mean":  w = u (e^(l - a) - 1) - r e^(l - a),
                 with a = positive_lse - log(n), r = beta / n and u = 1 / n

    for n positives. For n = 1 the first term is 0 and would only add rounding, so u is 0 there. A
    row without positives has a = b = inf, so every w is 0.

    Args:
        negative_lse: [N] log-sum-exp of the negatives' logits.
        positive_lse: [N] log-sum-exp of the positives' logits.
        count: [N] number of positives.
        positives: "sum" or "mean".
    """
    all_lse = torch.logaddexp(negative_lse, positive_lse)
    log_beta = negative_lse - all_lse
    if positives == "sum":
        rows = [positive_lse - log_beta, all_lse]
        padding = [torch.inf, torch.inf]
    else:
        uniform = (1 / count).masked_fill(count == 1, 0)
        rows = [positive_lse - count.log(), all_lse, log_beta.exp() / count, uniform]
        padding = [torch.inf, torch.inf, 0.0, 0.0]
    stand_in = count.new_tensor(padding)[:, None]
    return torch.where(count > 0, torch.stack(rows), stand_in)
