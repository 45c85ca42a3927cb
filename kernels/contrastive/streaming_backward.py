"""The backward of the contrastive softmax as torch operations, one tile of logits at a time."""

import torch
from torch import Tensor

from fastdual.kernels.contrastive.problem import NORM_FLOOR, Gradients, Needs, Problem, Saved
from fastdual.kernels.contrastive.streaming_tiles import (
    Tile,
    make_tile,
    scaled_rows,
    spans,
    temperature_of,
    tiles,
)


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
    key_scale = saved.query_scale if own else saved.key_scale
    grad_temperature = saved.slope.new_empty(0)
    if needs_temperature:
        grad_temperature = temperature_gradient(problem, saved.slope, upstream)
    if problem.settings.reduction == "mean":
        upstream = upstream / saved.num_valid.clamp(min=1)
    weight = upstream.to(problem.dtype).expand(query.shape[0])
    grad_query = _accumulator(query, problem, needs_query)
    grad_key = grad_query if own else _accumulator(key, problem, needs_key)
    wanted = needs_query or (needs_key and not own)
    with torch.autocast(query.device.type, enabled=False):
        for rows, columns, mirrored in tiles(problem) if wanted else ():
            q = scaled_rows(query, saved.query_scale, rows, problem)
            k = scaled_rows(key, key_scale, columns, problem)
            tile = make_tile(problem, q, k, rows, columns)
            slopes = _slopes(problem, tile, saved.statistics[:, rows], weight[rows], 1)
            if mirrored:
                slopes += _slopes(problem, tile, saved.statistics[:, columns], weight[columns], 0)
            if needs_query:
                grad_query[rows].addmm_(slopes, k)
            if needs_query if own else needs_key:
                grad_key[columns].addmm_(slopes.T, q)
        grad_query = _finish(grad_query, query, saved.query_scale, problem, needs_query).to(dtype)
        if own:
            grad_key = grad_query.new_empty(0)
        else:
            grad_key = _finish(grad_key, key, key_scale, problem, needs_key).to(dtype)
    return grad_query, grad_key, grad_temperature


def temperature_gradient(problem: Problem, slope: Tensor, upstream: Tensor) -> Tensor:
    """Return the gradient of the temperature, 0-d, or of its inverse if that was given instead.

    Args:
        problem: The problem of the forward.
        slope: Of Merged, shaped as the loss.
        upstream: Gradient of the loss.
    """
    total = (slope * upstream).sum()
    temperature = temperature_of(problem)
    return total * temperature if problem.settings.is_scale else -total / temperature


def _slopes(problem: Problem, tile: Tile, stats: Tensor, weight: Tensor, dim: int) -> Tensor:
    """Return d loss / d logit of a tile, as streaming.statistics_of derives it.

    `stats` and `weight` are those of the tile's rows (dim 1), or of its columns (dim 0).
    """
    logits, positive, excluded = tile
    at_positive, at_negative, *others = stats.unsqueeze(dim + 1).unbind()
    if positive is None:
        slopes = (logits - at_negative).exp_()
    else:
        away = logits - torch.where(positive, at_positive, at_negative)
        share = away.exp()
        if problem.settings.positives == "sum":
            slopes = torch.where(positive, -share, share)
        else:
            ratio, uniform = others
            slopes = torch.where(positive, uniform * away.expm1() - share * ratio, share)
    if excluded is not None and excluded is not positive:
        slopes.masked_fill_(excluded if positive is None else excluded & ~positive, 0)
    return slopes.mul_(weight.unsqueeze(dim))


def _accumulator(x: Tensor, problem: Problem, needed: bool) -> Tensor:
    return x.new_zeros(x.shape if needed else 0, dtype=problem.dtype)


def _finish(grad: Tensor, x: Tensor, scale: Tensor, problem: Problem, needed: bool) -> Tensor:
    """Turn sums of slopes x embeddings into the gradient, through temperature and length."""
    if not needed:
        return grad
    grad /= temperature_of(problem)
    if problem.settings.normalize:
        for span in spans(x.shape[0]):
            unit = scaled_rows(x, scale, span, problem)
            along = (grad[span] * unit).sum(dim=1, keepdim=True)
            # A length at the floor is a constant: nothing to take out.
            along = along.masked_fill(scale[span, None] >= 1 / NORM_FLOOR, 0)
            grad[span] = (grad[span] - unit * along) * scale[span, None]
    return grad
