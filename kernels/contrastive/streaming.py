"""The contrastive softmax with torch operations, one tile of logits at a time.

What runs without a GPU or without Triton, and for float64. It takes the very steps of the kernels
in contrastive_triton.py, and like them never holds the [N, M] logits: a tile of TILE x TILE is all
there is at a time, so memory is O((N + M) D).
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from fastdual.kernels.contrastive.problem import (
    BEST_POSITIVE,
    NEGATIVE_LSE,
    NEGATIVE_MEAN,
    NORM_FLOOR,
    NUM_FIELDS,
    NUM_TOP,
    POSITIVE_COUNT,
    POSITIVE_LSE,
    POSITIVE_MEAN,
    POSITIVE_SUM,
    TOP_NEGATIVES,
    Merged,
    Partials,
    Problem,
)

TILE = 256  # the matrices of one tile fit into the cache of one core
# Tiles end where a group of so many rows does: then those within it are left out as a whole.
LARGE_GROUP = 64


def _spans(length: int, run: int | None = None) -> Iterator[slice]:
    """Spans of at most TILE, each within one run."""
    run = run or length
    for first in range(0, length, run):
        for start in range(first, first + run, TILE):
            yield slice(start, min(start + TILE, first + run, length))


def _scales(x: Tensor, problem: Problem) -> Tensor:
    """1 / length of each row, [rows]; [0] where rows are taken as they are."""
    if not problem.normalize:
        return x.new_empty(0, dtype=problem.dtype)
    squares = x.new_empty(x.shape[0], dtype=problem.dtype)
    for span in _spans(x.shape[0]):
        squares[span] = x[span].to(problem.dtype).square().sum(dim=1)
    return 1.0 / squares.sqrt().clamp(min=NORM_FLOOR)


def _rows(x: Tensor, scale: Tensor, span: slice, problem: Problem) -> Tensor:
    rows = x[span].to(problem.dtype)
    return rows * scale[span, None] if problem.normalize else rows


def _temperature(problem: Problem) -> Tensor | float:
    """What logits are divided by."""
    value: Tensor | float = problem.temperature_value
    if problem.temperature is not None:
        value = problem.temperature.to(problem.dtype)
    return 1.0 / value if problem.is_scale else value


def _tiles(problem: Problem) -> Iterator[tuple[slice, slice, bool]]:
    """Rows and columns of each tile that has something in it, and whether it stands for two.

    Of a batch against itself the logits are symmetric: a tile above the diagonal stands for its
    mirror image too. Tiles within one group of a layout are ignored as a whole, and left out.
    """
    own, run = problem.key is None, None
    if problem.layout is not None and problem.layout.group_run >= LARGE_GROUP:
        run = problem.layout.group_run
    for rows in _spans(problem.query.shape[0], run):
        for columns in _spans(problem.columns.shape[0], run):
            if not (own and columns.start < rows.start or _in_one_group(problem, rows, columns)):
                yield rows, columns, own and columns.start > rows.start


def _in_one_group(problem: Problem, rows: slice, columns: slice) -> bool:
    if problem.layout is None:
        return False
    edges = rows.start, rows.stop - 1, columns.start, columns.stop - 1
    return len({edge // problem.layout.group_run for edge in edges}) == 1


def _labels(problem: Problem, span: slice, *, columns: bool) -> tuple[Tensor, Tensor | None]:
    """Ids and groups of a span of rows, or of columns."""
    if problem.layout is not None:
        id_run, num_ids, group_run = problem.layout
        place = torch.arange(span.start, span.stop, device=problem.query.device)
        sample = place // id_run % num_ids
        placed_ids = sample if problem.query_ids is None else problem.query_ids[sample]
        return placed_ids, place // group_run
    ids = problem.column_ids if columns else problem.query_ids
    groups = problem.column_groups if columns else problem.query_groups
    assert ids is not None
    return ids[span], None if groups is None else groups[span]


class _Tile(NamedTuple):
    """A part [rows, columns] of the logits, and which of its pairs are what.

    None stands for a mask without a pair: most tiles hold negatives alone, and take half the time.
    """

    logits: Tensor
    positive: Tensor | None
    excluded: Tensor | None  # positive, or of one group: no negatives


def _tile(problem: Problem, q: Tensor, k: Tensor, rows: slice, columns: slice) -> _Tile:
    logits = (q @ k.T).div_(_temperature(problem))
    row_ids, row_groups = _labels(problem, rows, columns=False)
    ids, groups = _labels(problem, columns, columns=True)
    same = problem.key is None and rows == columns
    positive, ignored = _matches(row_ids, ids, same), None
    if row_groups is not None and groups is not None:
        ignored = _matches(row_groups, groups, same)
    if positive is None or ignored is None:
        return _Tile(logits, positive, ignored if positive is None else positive)
    return _Tile(logits, positive & ~ignored, positive | ignored)


def _matches(rows: Tensor, columns: Tensor, same: bool) -> Tensor | None:
    """[rows, columns]: where a label that is not negative meets itself; None if nowhere.

    With `same` both are the same labels, and to look whether any meet would be time lost.
    """
    if not (same or _may_meet(rows, columns)):
        return None
    return (rows[:, None] == columns).logical_and_(columns >= 0)


def _may_meet(rows: Tensor, columns: Tensor) -> bool:
    """Whether a label is in both; on a GPU this is not asked, for the host would have to wait."""
    return rows.device.type != "cpu" or bool(torch.isin(rows, columns).any())


def compute_partials(problem: Problem, *, metrics: bool) -> Partials:
    """Forward over all candidates, in one part."""
    query, key = problem.query, problem.columns
    query_scale = _scales(query, problem)
    own = problem.key is None
    key_scale = query_scale.new_empty(0) if own else _scales(key, problem)
    num_fields = TOP_NEGATIVES + NUM_TOP if metrics else NUM_FIELDS
    fields = query.new_full((1, num_fields, query.shape[0]), -torch.inf, dtype=problem.dtype)
    fields[0, POSITIVE_COUNT : POSITIVE_MEAN + 1] = 0
    masses = query.new_zeros((2, query.shape[0]), dtype=problem.dtype)
    with torch.autocast(query.device.type, enabled=False):
        for rows, columns, mirrored in _tiles(problem):
            q = _rows(query, query_scale, rows, problem)
            k = _rows(key, query_scale if own else key_scale, columns, problem)
            tile = _tile(problem, q, k, rows, columns)
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


def _gather_fields(problem: Problem, fields: Tensor, masses: Tensor, tile: _Tile, dim: int) -> None:
    """Add a tile to the fields [F, N] of its rows (dim 1), or of its columns (dim 0), in place.

    Until all are there, a log-sum-exp's field holds the highest logit so far and a mean's the sum
    of e^(logit - highest) x logit; `masses` [2, N] are the sums of e^(logit - highest). A logarithm
    a tile would round a log-sum-exp once a tile.
    """
    logits, positive, excluded = tile
    negatives = logits if excluded is None else logits.masked_fill(excluded, -torch.inf)
    running = fields[NEGATIVE_LSE], masses[0], fields[NEGATIVE_MEAN]
    _add_part(problem, *running, negatives, logits, dim)
    has_metrics = fields.shape[0] > NUM_FIELDS
    if has_metrics:
        top = negatives.topk(min(NUM_TOP, negatives.shape[dim]), dim=dim).values
        top = torch.cat([fields[TOP_NEGATIVES:], top if dim == 0 else top.T])
        fields[TOP_NEGATIVES:] = top.topk(NUM_TOP, dim=0).values
    if positive is None:
        return
    positives = logits.masked_fill(~positive, -torch.inf)
    running = fields[POSITIVE_LSE], masses[1], fields[POSITIVE_MEAN]
    highest = _add_part(problem, *running, positives, logits, dim)
    fields[POSITIVE_COUNT] += positive.sum(dim)
    if problem.positives == "mean":
        fields[POSITIVE_SUM] += logits.masked_fill(~positive, 0).sum(dim)
    if has_metrics:
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
    """Add a part of the logits, -inf elsewhere, to what runs; returns the highest of each row."""
    highest = part.amax(dim)
    higher = torch.maximum(peak, highest)
    base = higher.masked_fill(higher == -torch.inf, 0)
    weights = (part - base.unsqueeze(dim)).exp_()
    kept = (peak - base).exp()
    mass.mul_(kept).add_(weights.sum(dim))
    if problem.learned:
        moment.mul_(kept).add_(weights.mul_(logits).sum(dim))
    peak.copy_(higher)
    return highest


def _shares(logits: Tensor, lse: Tensor) -> Tensor:
    """e^(logits - lse), and 0 where there is nothing in either."""
    return (logits - lse.masked_fill(lse == -torch.inf, 0)).exp()


def merge_partials(fields: Tensor, *, positives: str, reduction: str, learned: bool) -> Merged:
    """Parts [P, F, N] of the candidates to losses, statistics, hits and slope."""
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
    if fields.shape[1] > NUM_FIELDS:
        best = fields[:, BEST_POSITIVE].amax(dim=0)
        beaten_by = (fields[:, TOP_NEGATIVES:] > best).sum(dim=(0, 1))
        hits = torch.stack([valid & (beaten_by < 1), valid & (beaten_by < NUM_TOP), valid])
    statistics = statistics_of(negative_lse, positive_lse, count, positives)
    num_valid = valid.sum().to(fields.dtype)
    slope = fields.new_empty(0)
    if learned:
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
    """d loss / d log(1 / temperature) of each row: the sum of slopes x logits.

    That is the mean of all logits, less that of the positives: by their softmax ("sum") or plainly
    ("mean"). It would cancel where the positives have nearly all of the mass, so it is taken from
    the mean of the negatives, times their share of the mass.
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
    """Numbers a and b of each row, for "mean" also r and u; from them a logit l gives its slope w.

    A negative has w = e^(l - b), b being the log-sum-exp of all candidates. At a positive the
    textbook's softmax - 1 cancels, so the share `beta` that the negatives have of the mass is used:

        "sum":   w = -e^(l - a), with a = positive_lse - log(beta)
        "mean":  w = u (e^(l - a) - 1) - r e^(l - a),
                 with a = positive_lse - log(n), r = beta / n and u = 1 / n

    for n positives. For n = 1 the first term is 0 and would only add rounding, so u is 0 there. A
    row without positives has a = b = inf, so every w is 0.
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


def _slopes(problem: Problem, tile: _Tile, stats: Tensor, weight: Tensor, dim: int) -> Tensor:
    """d loss / d logit of a tile, with the statistics and weights of its rows (dim 1) or columns.

    See statistics_of.
    """
    logits, positive, excluded = tile
    at_positive, at_negative, *others = stats.unsqueeze(dim + 1).unbind()
    if positive is None:
        slopes = (logits - at_negative).exp_()
    else:
        away = logits - torch.where(positive, at_positive, at_negative)
        share = away.exp()
        if problem.positives == "sum":
            slopes = torch.where(positive, -share, share)
        else:
            ratio, uniform = others
            slopes = torch.where(positive, uniform * away.expm1() - share * ratio, share)
    if excluded is not None and excluded is not positive:
        slopes.masked_fill_(excluded if positive is None else excluded & ~positive, 0)
    return slopes.mul_(weight.unsqueeze(dim))


def compute_gradients(
    problem: Problem,
    partials: Partials,
    statistics: Tensor,
    slope: Tensor,
    upstream: Tensor,
    count: Tensor | None,
    needs: tuple[bool, bool, bool],
    *,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key (both in `dtype`) and temperature; [0] for each that is not needed.

    Args:
        statistics: Of Merged, and so is slope.
        upstream: Gradient of the loss, 0-d, or [N] for reduction "none".
        count: Number of rows that a "mean" divides by, else None.
    """
    query, key, own = problem.query, problem.columns, problem.key is None
    needs_query, needs_key, needs_temperature = needs
    key_scale = partials.query_scale if own else partials.key_scale
    grad_temperature = slope.new_empty(0)
    if needs_temperature:
        grad_temperature = temperature_gradient(problem, slope, upstream)
    if count is not None:
        upstream = upstream / count.clamp(min=1)
    row_weight = upstream.to(problem.dtype).expand(query.shape[0])
    grad_query = _accumulator(query, problem, needs_query)
    grad_key = grad_query if own else _accumulator(key, problem, needs_key)
    wanted = needs_query or (needs_key and not own)
    with torch.autocast(query.device.type, enabled=False):
        for rows, columns, mirrored in _tiles(problem) if wanted else ():
            q = _rows(query, partials.query_scale, rows, problem)
            k = _rows(key, key_scale, columns, problem)
            tile = _tile(problem, q, k, rows, columns)
            slopes = _slopes(problem, tile, statistics[:, rows], row_weight[rows], 1)
            if mirrored:
                slopes += _slopes(problem, tile, statistics[:, columns], row_weight[columns], 0)
            if needs_query:
                grad_query[rows].addmm_(slopes, k)
            if needs_query if own else needs_key:
                grad_key[columns].addmm_(slopes.T, q)
        grad_query = _finish(grad_query, query, partials.query_scale, problem, needs_query, dtype)
        if own:
            grad_key = grad_query.new_empty(0)
        else:
            grad_key = _finish(grad_key, key, key_scale, problem, needs_key, dtype)
    return grad_query, grad_key, grad_temperature


def temperature_gradient(problem: Problem, slope: Tensor, upstream: Tensor) -> Tensor:
    """Gradient of the temperature, 0-d; of its inverse if that is given in its place."""
    total = (slope * upstream).sum()
    return total * _temperature(problem) if problem.is_scale else -total / _temperature(problem)


def _accumulator(x: Tensor, problem: Problem, needed: bool) -> Tensor:
    return x.new_zeros(x.shape if needed else 0, dtype=problem.dtype)


def _finish(
    grad: Tensor, x: Tensor, scale: Tensor, problem: Problem, needed: bool, dtype: torch.dtype
) -> Tensor:
    """From sums of slopes x embeddings to the gradient: through temperature and length."""
    if not needed:
        return grad.to(dtype)
    grad /= _temperature(problem)
    if problem.normalize:
        for span in _spans(x.shape[0]):
            unit = _rows(x, scale, span, problem)
            along = (grad[span] * unit).sum(dim=1, keepdim=True)
            # A length at the floor is a constant: nothing to take out.
            along = along.masked_fill(scale[span, None] >= 1 / NORM_FLOOR, 0)
            grad[span] = (grad[span] - unit * along) * scale[span, None]
    return grad.to(dtype)
