"""The backward kernels of the contrastive softmax and their launchers; need triton.

A program owns a block of one side (rows or candidates), whose gradient it adds up in registers, and
streams over the other side, computing the logits again. Where rows are their own candidates, both
slopes of a pair come from one logit, so that one launch does what otherwise takes two.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastdual.kernels.backend import capability_of
from fastdual.kernels.contrastive.problem import Gradients, Needs, Problem, Saved
from fastdual.kernels.contrastive.streaming import temperature_gradient
from fastdual.kernels.contrastive.triton_launch import (
    backward_tile,
    flags_of,
    laid_out,
    sides_of,
    split,
    temperature_of,
)
from fastdual.kernels.contrastive.triton_shared import (
    FLOOR,
    LN_2,
    base2_scale,
    is_special,
    load_masks,
    load_row,
    load_tile,
    row_factor,
    similarities,
    span_of_part,
)

# Slopes become operands of a product. In float16 they are scaled up, so that those down to 4e-12
# survive; two slopes of at most 1 each still stay finite.
HALF_SCALE = tl.constexpr(16384.0)


class Upstream(NamedTuple):
    """Gradient of the loss, what a mean divides it by, and the largest size of its rows."""

    grad: Tensor
    num_valid: Tensor | None
    peak: Tensor | None


@triton.jit
def _slopes(
    logits, positive, statistics_ptr, index, count, axis: tl.constexpr, IS_SUM: tl.constexpr
):
    """Return d loss / d logit [OWN, OTHER] as streaming.statistics_of derives it.

    The numbers of the rows `index`, of `count`, are expanded along `axis`.
    """
    a = tl.expand_dims(load_row(statistics_ptr, index, count), axis)
    b = tl.expand_dims(load_row(statistics_ptr + count, index, count), axis)
    away = logits - tl.where(positive, a, b)
    share = tl.exp2(away)
    if IS_SUM:
        return tl.where(positive, -share, share)
    else:
        ratio = tl.expand_dims(load_row(statistics_ptr + 2 * count, index, count), axis)
        uniform = tl.expand_dims(load_row(statistics_ptr + 3 * count, index, count), axis)
        # share - 1 near 0 by its series, because the subtraction would cancel. It takes products
        # alone, because a GPU divides slowly; the first term left out is below 5e-8 of the sum.
        x = away * LN_2
        tail = 1.0 + x * (1.0 / 5) * (1.0 + x * (1.0 / 6))
        tail = 1.0 + x * (1.0 / 2) * (1.0 + x * (1.0 / 3) * (1.0 + x * (1.0 / 4) * tail))
        share_less_one = tl.where(tl.abs(x) < 0.25, x * tail, share - 1.0)
        return tl.where(positive, uniform * share_less_one - share * ratio, share)


@triton.jit
def _store_gradient(
    grad, along, tile, own, grad_ptr, upstream, temperature, index, start,
    UPSTREAM_ROWS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Turn sums of slopes x embeddings into the gradient, through upstream, temperature and length.

    `along` is the dot product of the own rows with the sums: normalisation takes out the part of
    the gradient that points along the row.
    """
    factor = base2_scale(temperature) * LN_2  # 1 / temperature
    if not UPSTREAM_ROWS:
        factor *= tl.load(upstream.grad).to(tl.float32)
        if upstream.num_valid is not None:
            factor /= tl.maximum(tl.load(upstream.num_valid), 1.0)
    if upstream.peak is not None:
        factor *= tl.load(upstream.peak).to(tl.float32)
    if own.scale is not None:
        scale = load_row(own.scale, index, own.count)
        # A length at the floor is a constant: nothing to take out.
        taken_out = tl.where(scale < 0.999 / FLOOR, scale * scale * along, 0.0)
        grad = (grad - tile.to(tl.float32) * taken_out[:, None]) * scale[:, None]
    dims = start + tl.arange(0, BLOCK_D)
    at = grad_ptr + index.to(tl.int64)[:, None] * D + dims[None, :]
    mask = (index < own.count)[:, None] & (dims < D)[None, :]
    tl.store(at, (grad * factor).to(grad_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _store_temperature_gradient(grad_ptr, slope_ptr, upstream, temperature):
    """Store streaming.temperature_gradient of a 0-d loss, by the first program."""
    inverse = base2_scale(temperature) * LN_2  # 1 / temperature
    total = tl.load(slope_ptr) * tl.load(upstream.grad).to(tl.float32)
    first = tl.program_id(0) + tl.program_id(1) + tl.program_id(2) == 0
    scaled = tl.where(temperature.inverted != 0, total / inverse, -total * inverse)
    tl.store(grad_ptr, scaled, mask=first)


@triton.jit
def _backward_kernel(
    own, other, layout, flags, temperature, upstream, statistics_ptr, grad_ptr, parts_ptr,
    slope_ptr, grad_temperature_ptr, part_length,
    OWN_IS_QUERY: tl.constexpr, OTHER_IS_QUERY: tl.constexpr, IS_SUM: tl.constexpr,
    UPSTREAM_ROWS: tl.constexpr, D: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_OWN: tl.constexpr, BLOCK_OTHER: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Store the gradient of a block of the own side in a slice of D, from a part of the other side.

    Both sides are queries where rows are their own candidates. Several parts or slices are stored
    as they are, to be merged; else the gradient is finished here.
    """
    if grad_temperature_ptr is not None:
        _store_temperature_gradient(grad_temperature_ptr, slope_ptr, upstream, temperature)
    row, part, slice_start = (
        tl.program_id(0) * BLOCK_OWN, tl.program_id(2), tl.program_id(1) * BLOCK_D
    )  # fmt: skip
    index = row + tl.arange(0, BLOCK_OWN)
    tile = load_tile(own, index, slice_start, D, BLOCK_D)
    factor = row_factor(own, index, temperature)
    inverse_peak = 1.0
    if upstream.peak is not None:
        peak = tl.load(upstream.peak).to(tl.float32)
        inverse_peak = tl.where(peak == 0.0, 0.0, 1.0 / peak)
    if OWN_IS_QUERY:
        base = load_row(statistics_ptr + own.count, index, own.count)
        if UPSTREAM_ROWS:
            weight = load_row(upstream.grad, index, own.count) * inverse_peak
    element: tl.constexpr = own.rows.dtype.element_ty
    grad = tl.zeros([BLOCK_OWN, BLOCK_D], tl.float32)
    first, last = span_of_part(own, row, other, part_length, part, layout, BLOCK_OWN, BLOCK_OTHER)
    for start in tl.range(first, last, BLOCK_OTHER):
        others = start + tl.arange(0, BLOCK_OTHER)
        logits, other_tile = similarities(tile, own, index, other, others, D, BLOCK_D, PRECISION)
        if other.scale is not None:
            other_scale = load_row(other.scale, others, other.count)
            logits *= other_scale[None, :]
        if OTHER_IS_QUERY:
            other_base = load_row(statistics_ptr + other.count, others, other.count)
            if UPSTREAM_ROWS:
                other_weight = load_row(upstream.grad, others, other.count) * inverse_peak
        if is_special(own, row, other, start, layout, flags, BLOCK_OWN, BLOCK_OTHER):
            positive, ignored = load_masks(own, index, other, others, layout)
            logits *= factor[:, None]
            slopes = tl.zeros([BLOCK_OWN, BLOCK_OTHER], tl.float32)
            if OWN_IS_QUERY:
                slopes = _slopes(logits, positive, statistics_ptr, index, own.count, 1, IS_SUM)
                if UPSTREAM_ROWS:
                    slopes *= weight[:, None]
            if OTHER_IS_QUERY:
                back = _slopes(logits, positive, statistics_ptr, others, other.count, 0, IS_SUM)
                if UPSTREAM_ROWS:
                    back *= other_weight[None, :]
                slopes += back
            slopes = tl.where(ignored, 0.0, slopes)
        else:
            slopes = tl.zeros([BLOCK_OWN, BLOCK_OTHER], tl.float32)
            if OWN_IS_QUERY:
                slopes = tl.exp2(logits * factor[:, None] - base[:, None])
                if UPSTREAM_ROWS:
                    slopes *= weight[:, None]
            if OTHER_IS_QUERY:
                back = tl.exp2(logits * factor[:, None] - other_base[None, :])
                if UPSTREAM_ROWS:
                    back *= other_weight[None, :]
                slopes += back
        if D > BLOCK_D:
            other_tile = load_tile(other, others, slice_start, D, BLOCK_D)
        if element == tl.float16:
            slopes *= HALF_SCALE
            if other.scale is not None:
                # Not onto the slopes: the inverse of a short length would overflow them.
                other_tile = (other_tile * other_scale[:, None]).to(element)
        elif other.scale is not None:
            slopes *= other_scale[None, :]
        grad = tl.dot(slopes.to(element), other_tile, grad, input_precision=PRECISION)

    if element == tl.float16:
        grad *= 1.0 / HALF_SCALE
    if parts_ptr is None:
        along = tl.sum(tile.to(tl.float32) * grad, 1)
        _store_gradient(
            grad, along, tile, own, grad_ptr, upstream, temperature, index, slice_start,
            UPSTREAM_ROWS, D, BLOCK_D,
        )  # fmt: skip
    else:
        dims = slice_start + tl.arange(0, BLOCK_D)
        at = (part.to(tl.int64) * own.count + index)[:, None] * D + dims[None, :]
        mask = (index < own.count)[:, None] & (dims < D)[None, :]
        tl.store(parts_ptr + at, grad, mask=mask)


@triton.jit
def _sum_parts(parts_ptr, own, index, start, P, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Return the sum of the parts of rows `index` in a slice of D, in their order."""
    dims = start + tl.arange(0, BLOCK_D)
    mask = (index < own.count)[:, None] & (dims < D)[None, :]
    total = tl.zeros([index.shape[0], BLOCK_D], tl.float32)
    for part in range(P):
        at = (tl.cast(part, tl.int64) * own.count + index)[:, None] * D + dims[None, :]
        total += tl.load(parts_ptr + at, mask=mask, other=0.0)
    return total


@triton.jit
def _finish_kernel(
    own, temperature, upstream, grad_ptr, parts_ptr, P,
    UPSTREAM_ROWS: tl.constexpr, D: tl.constexpr, BLOCK_OWN: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Add up the parts of a block of rows, and finish its gradient."""
    index = tl.program_id(0) * BLOCK_OWN + tl.arange(0, BLOCK_OWN)
    along = tl.zeros([BLOCK_OWN], tl.float32)
    if own.scale is not None:
        for start in range(0, D, BLOCK_D):
            tile = load_tile(own, index, start, D, BLOCK_D).to(tl.float32)
            along += tl.sum(tile * _sum_parts(parts_ptr, own, index, start, P, D, BLOCK_D), 1)
    for start in range(0, D, BLOCK_D):
        tile = load_tile(own, index, start, D, BLOCK_D)
        grad = _sum_parts(parts_ptr, own, index, start, P, D, BLOCK_D)
        _store_gradient(
            grad, along, tile, own, grad_ptr, upstream, temperature, index, start,
            UPSTREAM_ROWS, D, BLOCK_D,
        )  # fmt: skip


def compute_gradients(
    problem: Problem, saved: Saved, upstream: Tensor, needs: Needs, *, dtype: torch.dtype
) -> Gradients:
    """Launch once for query and once for key, or once for both; see streaming.compute_gradients.

    One more launch for each side that is split into parts. The launch for the query also stores the
    gradient of the temperature, unless the loss has rows: torch computes it then.
    """
    needs_query, needs_key, needs_temperature = needs
    dim, problem = problem.query.shape[1], laid_out(problem)
    # float16 slopes are weighted by rows before they become operands: 1 is the largest weight then.
    peak = None
    if upstream.ndim and problem.query.dtype == torch.float16:
        peak = torch.linalg.vector_norm(upstream, float("inf"))
    num_valid = saved.num_valid if problem.settings.reduction == "mean" else None
    weights = Upstream(upstream.contiguous(), num_valid, peak)
    of_temperature = None
    if needs_temperature and needs_query and not upstream.ndim:
        grad_temperature = of_temperature = saved.slope.new_empty(())
    elif needs_temperature:
        grad_temperature = temperature_gradient(problem, saved.slope, upstream)
    else:
        grad_temperature = saved.slope.new_empty(0)
    # One tensor each: an op may not return one twice.
    grad_query = grad_key = None
    if needs_query:
        grad_query = _launch(problem, saved, weights, of_temperature, dtype, own_is_query=True)
        grad_query = grad_query[:, :dim].contiguous()
    if needs_key and problem.key is not None:
        grad_key = _launch(problem, saved, weights, None, dtype, own_is_query=False)
        grad_key = grad_key[:, :dim].contiguous()
    if grad_query is None:
        grad_query = upstream.new_empty(0, dtype=dtype)
    if grad_key is None:
        grad_key = upstream.new_empty(0, dtype=dtype)
    return grad_query, grad_key, grad_temperature


def _launch(
    problem: Problem,
    saved: Saved,
    upstream: Upstream,
    grad_temperature: Tensor | None,
    dtype: torch.dtype,
    *,
    own_is_query: bool,
) -> Tensor:
    """Return the gradient of one side, and store that of the temperature where it is wanted."""
    own, other = sides_of(problem, saved.prepared)
    if not own_is_query:
        own, other = other, own
    dim = own.rows.shape[1]
    is_sum = problem.settings.positives == "sum"
    by_row, temperature = upstream.grad.ndim > 0, temperature_of(problem)
    tile = backward_tile(
        own.rows.dtype, own.count, dim, rich=by_row or not is_sum,
        capability=capability_of(own.rows.device),
    )  # fmt: skip
    options = tile.options(dim)
    num_blocks, num_slices = triton.cdiv(own.count, tile.own), triton.cdiv(dim, options["BLOCK_D"])
    parts, part_length = split(own.rows.device, num_blocks * num_slices, other.count, tile.other, 1)
    grad = own.rows.new_empty((own.count, dim), dtype=dtype)
    in_parts = None
    if parts * num_slices > 1:
        in_parts = grad.new_empty((parts, own.count, dim), dtype=torch.float32)
    _backward_kernel[(num_blocks, num_slices, parts)](
        own, other, problem.settings.layout, flags_of(saved.prepared, own_is_query=own_is_query),
        temperature, upstream, saved.statistics, grad, in_parts,
        saved.slope if grad_temperature is not None else None, grad_temperature, part_length,
        OWN_IS_QUERY=own_is_query, OTHER_IS_QUERY=problem.key is None or not own_is_query,
        IS_SUM=is_sum, UPSTREAM_ROWS=by_row,
        PRECISION=problem.settings.precision, **options,
    )  # fmt: skip
    if in_parts is not None:
        _finish_kernel[(triton.cdiv(own.count, 16),)](
            own, temperature, upstream, grad, in_parts, parts,
            UPSTREAM_ROWS=by_row, D=dim, BLOCK_OWN=16, BLOCK_D=min(options["BLOCK_D"], 64),
            enable_fp_fusion=True,
        )  # fmt: skip
    return grad
