"""The steps of the contrastive softmax as torch operations, one tile of logits at a time.

This runs without a GPU or without Triton, and for float64. It takes the same steps as the kernels,
in base e, and like them never holds the [N, M] logits. Positives and ignored pairs are few and kept
as lists of pairs: a tile of logits is written and read as negatives alone, and put right at them.
"""

import torch
from torch import Tensor

from fastdual.kernels.contrastive.problem import (
    BEST_POSITIVE,
    NEGATIVE_LSE,
    NEGATIVE_MEAN,
    NORM_FLOOR,
    POSITIVE_COUNT,
    POSITIVE_LSE,
    POSITIVE_MEAN,
    POSITIVE_SUM,
    Gradients,
    Merged,
    Needs,
    Partials,
    Prepared,
    Problem,
    Saved,
)
from fastdual.kernels.contrastive.streaming_tiles import (
    Tile,
    divisor_of,
    length_scales,
    scaled_rows,
    tiles,
)

LOWEST = -3e38  # finite, so that a share of 0 times it is 0


def _raise(sums: Tensor, highest: Tensor) -> Tensor:
    """Raise the peaks of running sums to `highest` at least; return them, 0 where there is none.

    Sums are peaks, masses and, if the temperature is learned, moments [2 or 3, rows]: log-sum-exps
    peak + log(mass), and sums of e^(value - peak) x value. One logarithm per tile would round a
    log-sum-exp once per tile.
    """
    peak = sums[0]
    higher = torch.maximum(peak, highest)
    base = higher.masked_fill(higher == -torch.inf, 0)
    sums[1:].mul_((peak - base).exp_())
    peak.copy_(higher)
    return base


def _add_tile(sums: Tensor, values: Tensor, dim: int) -> None:
    """Add a tile of values to the sums of its rows (dim 1), or of its columns (dim 0)."""
    shares = (values - _raise(sums, values.amax(dim)).unsqueeze(dim)).exp_()
    sums[1].add_(shares.sum(dim))
    if len(sums) == 3:
        sums[2].add_(shares.mul_(values.clamp(min=LOWEST)).sum(dim))


def _add_pairs(sums: Tensor, rows: Tensor, values: Tensor) -> None:
    """Add values [pairs] to the sums of their rows [pairs]."""
    base = _raise(sums, sums[0].scatter_reduce(0, rows, values, "amax"))
    shares = (values - base[rows]).exp_()
    sums[1].index_add_(0, rows, shares)
    if len(sums) == 3:
        sums[2].index_add_(0, rows, shares.mul_(values.clamp(min=LOWEST)))


def compute_partials(problem: Problem) -> Partials:
    """Return what the rows gather from all candidates, in one part."""
    query, settings = problem.query, problem.settings
    nothing = query.new_empty(0, dtype=problem.dtype)
    prepared = Prepared(
        length_scales(query, problem),
        nothing if problem.key is None else length_scales(problem.key, problem),
        query.new_empty((0, 0), dtype=torch.int8),
    )
    sums = query.new_zeros((2, 3 if settings.learned else 2, len(query)), dtype=problem.dtype)
    sums[:, 0].fill_(-torch.inf)
    negatives, positives = sums
    count, total = query.new_zeros((2, len(query)), dtype=problem.dtype)
    for tile in tiles(problem, prepared):
        if tile.positive.numel():
            rows, places = tile.positive_pairs()
            values = tile.logits.view(-1)[places]
            _add_pairs(positives, rows, values)
            count.index_add_(0, rows, torch.ones_like(values))
            if settings.positives == "mean":
                total.index_add_(0, rows, values)
        logits = tile.without_excluded()
        _add_tile(negatives[:, tile.rows], logits, 1)
        if tile.mirrored is not None:
            _add_tile(negatives[:, tile.mirrored], tile.mirror(logits), 0)
    lse = sums[:, 0] + sums[:, 1].log()
    # Any mass is at least 1.
    means = sums[:, 2] / sums[:, 1].clamp(min=1) if settings.learned else torch.zeros_like(lse)
    others = torch.stack([positives[0], count, total])  # in the order of the numbered fields
    return Partials(torch.cat([lse, others, means])[None], prepared)


def count_beaten(problem: Problem, prepared: Prepared, fields: Tensor) -> Tensor:
    """Return how many negatives are above the best positive of each row, [1, N] int32."""
    best = fields[:, BEST_POSITIVE].amax(dim=0)
    counts = torch.zeros_like(best, dtype=torch.int32)
    for tile in tiles(problem, prepared):
        logits = tile.without_excluded()
        counts[tile.rows] += (logits > best[tile.rows, None]).sum(1, dtype=torch.int32)
        if tile.mirrored is not None:
            above = tile.mirror(logits) > best[tile.mirrored]
            counts[tile.mirrored] += above.sum(0, dtype=torch.int32)
    return counts[None]


def merge_partials(problem: Problem, fields: Tensor, counts: Tensor | None) -> Merged:
    """Return the loss and what the backward needs.

    Args:
        problem: The rows, and how they are reduced.
        fields: [P, F, N] of all parts of the candidates.
        counts: [P, N] of count_beaten; None where metrics are not wanted.
    """
    positives, reduction = problem.settings.positives, problem.settings.reduction
    negative_lse, positive_lse = fields[:, : POSITIVE_LSE + 1].logsumexp(dim=0)
    count = fields[:, POSITIVE_COUNT].sum(dim=0)
    valid = count > 0
    # log(1 + e^d) keeps its digits where negatives weigh next to nothing; all_lse - positive_lse
    # does not.
    rows = torch.logaddexp(torch.zeros_like(count), negative_lse - positive_lse)
    if positives == "mean":
        rows = rows + (positive_lse - fields[:, POSITIVE_SUM].sum(dim=0) / count)
    rows = rows.masked_fill(~valid, 0)
    hits = fields.new_empty((3, 0), dtype=torch.bool)
    if counts is not None:
        beaten_by = counts.sum(dim=0)
        hits = torch.stack([valid & (beaten_by < 1), valid & (beaten_by < 5), valid])
    statistics = statistics_of(negative_lse, positive_lse, count, positives)
    num_valid = valid.sum().to(fields.dtype)
    slope = fields.new_empty(0)
    if problem.settings.learned:
        slopes = _temperature_slopes(fields, negative_lse, positive_lse, count, positives)
        slope = _reduce(slopes.masked_fill(~valid, 0), num_valid, reduction)
    return Merged(_reduce(rows, num_valid, reduction), num_valid, hits, statistics, slope)


def _reduce(rows: Tensor, num_valid: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return rows
    return rows.sum() / num_valid.clamp(min=1) if reduction == "mean" else rows.sum()


def _shares(logits: Tensor, lse: Tensor) -> Tensor:
    """Return e^(logits - lse), and 0 where both are of nothing."""
    return (logits - lse.masked_fill(lse == -torch.inf, 0)).exp()


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


def compute_gradients(
    problem: Problem, saved: Saved, upstream: Tensor, needs: Needs, *, dtype: torch.dtype
) -> Gradients:
    """Return the gradients of query, key and temperature.

    Args:
        problem: The problem of the forward; its `metrics` and `learned` are not read.
        saved: What the forward kept.
        upstream: Gradient of the loss, 0-d, or [N] for reduction "none".
        needs: Which of the three gradients are needed.
        dtype: Of the first two gradients.
    """
    query, key, own = problem.query, problem.columns, problem.key is None
    needs_query, needs_key, needs_temperature = needs
    nothing = saved.slope.new_empty(0)
    grad_temperature = nothing
    if needs_temperature:
        grad_temperature = temperature_gradient(problem, saved.slope, upstream)
    grad_query = query.new_zeros(query.shape if needs_query else 0, dtype=problem.dtype)
    grad_key = grad_query
    if not own:
        grad_key = key.new_zeros(key.shape if needs_key else 0, dtype=problem.dtype)
    weight = upstream.to(problem.dtype) if upstream.ndim else None
    for tile in tiles(problem, saved.prepared) if needs_query or (needs_key and not own) else ():
        slopes = _slopes(tile, saved.statistics, weight, problem.settings.positives)
        if needs_query:
            grad_query[tile.rows].addmm_(slopes, tile.key)
        if needs_query if own else needs_key:
            grad_key[tile.columns].addmm_(slopes.T, tile.query)
    factor = 1.0 / divisor_of(problem)
    if weight is None:
        factor = factor * upstream
        if problem.settings.reduction == "mean":
            factor = factor / saved.num_valid.clamp(min=1)
    scales = saved.prepared
    grad_query = _finish(grad_query, query, scales.query_scale, factor, problem).to(dtype)
    if own:
        return grad_query, query.new_empty(0, dtype=dtype), grad_temperature
    grad_key = _finish(grad_key, key, scales.key_scale, factor, problem).to(dtype)
    return grad_query, grad_key, grad_temperature


def _slopes(tile: Tile, statistics: Tensor, weight: Tensor | None, positives: str) -> Tensor:
    """Return d loss / d logit of a tile, as statistics_of derives it, times the rows' weights."""
    slopes = (tile.logits - statistics[1, tile.rows, None]).exp_()
    if weight is not None:
        slopes *= weight[tile.rows, None]
    if tile.mirrored is not None:
        back = (tile.mirror(tile.logits) - statistics[1, tile.mirrored]).exp_()
        if weight is not None:
            back *= weight[tile.mirrored]
        tile.mirror(slopes).add_(back)
    flat = slopes.view(-1)
    flat.index_fill_(0, tile.excluded, 0)
    if tile.positive.numel():
        rows, places = tile.positive_pairs()
        at_positive, _, *others = statistics[:, rows].unbind()
        away = tile.logits.view(-1)[places] - at_positive
        at_pairs = -away.exp()
        if positives == "mean":
            ratio, uniform = others
            at_pairs = uniform * away.expm1() + at_pairs * ratio
        if weight is not None:
            at_pairs *= weight[rows]
        flat.index_add_(0, places, at_pairs)
    return slopes


def temperature_gradient(problem: Problem, slope: Tensor, upstream: Tensor) -> Tensor:
    """Return the gradient of the temperature, 0-d, or of its inverse if that was given instead.

    Args:
        problem: The problem of the forward.
        slope: Of Merged, shaped as the loss.
        upstream: Gradient of the loss.
    """
    total = (slope * upstream).sum()
    temperature = divisor_of(problem)
    return total * temperature if problem.settings.is_scale else -total / temperature


def _finish(
    grad: Tensor, x: Tensor, scale: Tensor, factor: Tensor | float, problem: Problem
) -> Tensor:
    """Turn sums of slopes x embeddings into the gradient, through temperature and length."""
    if not grad.numel():
        return grad
    grad *= factor
    if problem.settings.normalize:
        unit = scaled_rows(x, scale, problem)
        along = (grad * unit).sum(dim=1, keepdim=True)
        # A length at the floor is a constant: nothing to take out.
        along = along.masked_fill(scale[:, None] >= 1 / NORM_FLOOR, 0)
        grad = grad.addcmul_(unit, along, value=-1).mul_(scale[:, None])
    return grad
