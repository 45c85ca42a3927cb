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

from fastdual.kernels.contrastive.problem import Gradients, Needs, Problem, Saved
from fastdual.kernels.contrastive.streaming_backward import temperature_gradient
from fastdual.kernels.contrastive.triton_shared import (
    FLOOR,
    LN_2,
    base2_scale,
    exact_masks,
    load_groups,
    load_ids,
    load_tile,
    similarities,
    span_of_other_groups,
)
from fastdual.kernels.contrastive.triton_tiles import (
    backward_tile,
    is_aligned,
    is_heavy,
    labels_of,
    layout_of,
    split,
)

# Slopes become operands of a product. In float16 they are scaled up, so that those down to 4e-12
# survive; two slopes of at most 1 each still stay finite.
HALF_SCALE = tl.constexpr(16384.0)


@triton.jit
def _slopes(logits, positive, a, b, ratio, uniform, axis: tl.constexpr, IS_SUM: tl.constexpr):
    """Return d loss / d logit [OWN, OTHER]; the numbers of the rows are expanded along `axis`."""
    a, b = tl.expand_dims(a, axis), tl.expand_dims(b, axis)
    away = logits - tl.where(positive, a, b)
    share = tl.exp2(away)
    if IS_SUM:
        return tl.where(positive, -share, share)
    else:
        # share - 1 near 0 by its series, because the subtraction would cancel. It takes products
        # alone, because a GPU divides slowly; the first term left out is below 5e-8 of the sum.
        x = away * LN_2
        tail = 1.0 + x * (1.0 / 5) * (1.0 + x * (1.0 / 6))
        tail = 1.0 + x * (1.0 / 2) * (1.0 + x * (1.0 / 3) * (1.0 + x * (1.0 / 4) * tail))
        share_less_one = tl.where(tl.abs(x) < 0.25, x * tail, share - 1.0)
        pull = tl.expand_dims(uniform, axis) * share_less_one
        return tl.where(positive, pull - share * tl.expand_dims(ratio, axis), share)


@triton.jit
def _load_statistics(statistics_ptr, index, N, IS_SUM: tl.constexpr):
    """Return the numbers of streaming.statistics_of; past the end, of a row without positives."""
    at = statistics_ptr + index.to(tl.int64)
    inside = index < N
    a = tl.load(at, mask=inside, other=float("inf"))
    b = tl.load(at + N, mask=inside, other=float("inf"))
    if IS_SUM:
        return a, b, a, a
    else:
        ratio = tl.load(at + N + N, mask=inside, other=0.0)
        return a, b, ratio, tl.load(at + N + N + N, mask=inside, other=0.0)


@triton.jit
def _store_gradient(
    grad, along, own, own_scale_ptr, grad_ptr, upstream_ptr, count_ptr, peak_ptr,
    temperature_ptr, temperature_value, index, dims, num_own, D,
    IS_SCALE: tl.constexpr, UPSTREAM_ROWS: tl.constexpr, NORMALIZE: tl.constexpr,
):  # fmt: skip
    """Turn sums of slopes x embeddings into the gradient, through upstream, temperature and length.

    `along` is the sum of slopes x logits of each row. It gives the part of the gradient that points
    along the row, which normalisation takes out.
    """
    per_logit = base2_scale(temperature_ptr, temperature_value, IS_SCALE)
    factor = per_logit * LN_2  # 1 / temperature
    if not UPSTREAM_ROWS:
        factor *= tl.load(upstream_ptr).to(tl.float32)
        if count_ptr is not None:
            factor /= tl.maximum(tl.load(count_ptr), 1.0)
    if peak_ptr is not None:
        factor *= tl.load(peak_ptr).to(tl.float32)
    inside = index < num_own
    if NORMALIZE:
        scale = tl.load(own_scale_ptr + index, mask=inside, other=0.0)
        # A length at the floor is a constant: nothing to take out.
        taken_out = tl.where(scale < 0.999 / FLOOR, scale * along / per_logit, 0.0)
        grad = (grad - own.to(tl.float32) * taken_out[:, None]) * scale[:, None]
    offsets = index.to(tl.int64)[:, None] * D + dims[None, :]
    grad = (grad * factor).to(grad_ptr.dtype.element_ty)
    tl.store(grad_ptr + offsets, grad, mask=inside[:, None] & (dims < D)[None, :])


@triton.jit
def _store_temperature_gradient(
    grad_ptr, slope_ptr, upstream_ptr, temperature_ptr, IS_SCALE: tl.constexpr
):
    """Store streaming_backward.temperature_gradient of a 0-d loss, by the first program."""
    inverse = base2_scale(temperature_ptr, 1.0, IS_SCALE) * LN_2  # 1 / temperature
    total = tl.load(slope_ptr) * tl.load(upstream_ptr).to(tl.float32)
    first = tl.program_id(0) + tl.program_id(1) + tl.program_id(2) == 0
    tl.store(grad_ptr, total / inverse if IS_SCALE else -total * inverse, mask=first)


@triton.jit
def _contrastive_bwd_kernel(
    own_ptr, other_ptr, own_ids_ptr, other_ids_ptr, own_groups_ptr, other_groups_ptr,
    temperature_ptr, upstream_ptr, count_ptr, peak_ptr, statistics_ptr,
    own_scale_ptr, other_scale_ptr, grad_ptr, part_grad_ptr, part_along_ptr,
    slope_ptr, grad_temperature_ptr,
    temperature_value, num_own, num_other, D, others_a_part,
    stride_own, stride_own_dim, stride_other, stride_other_dim, id_run, num_ids, group_run,
    LAYOUT: tl.constexpr, IS_SCALE: tl.constexpr,
    OWN_IS_QUERY: tl.constexpr, OTHER_IS_QUERY: tl.constexpr, IS_SUM: tl.constexpr,
    UPSTREAM_ROWS: tl.constexpr, NORMALIZE: tl.constexpr,
    SINGLE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_OWN: tl.constexpr, BLOCK_OTHER: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Store the gradient of a block of the own side in a slice of D, from a part of the other side.

    Both sides are queries where rows are their own candidates. Several parts are stored as they
    are, to be merged; a single part is finished here.
    """
    if grad_temperature_ptr is not None:
        _store_temperature_gradient(
            grad_temperature_ptr, slope_ptr, upstream_ptr, temperature_ptr, IS_SCALE
        )
    part = tl.program_id(2)
    index = tl.program_id(0) * BLOCK_OWN + tl.arange(0, BLOCK_OWN)
    dims = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    own = load_tile(own_ptr, index, dims, num_own, D, stride_own, stride_own_dim)
    ids, ids_high = load_ids(own_ids_ptr, index, num_own, -1, id_run, num_ids, LAYOUT)
    groups, groups_high = ids, ids_high
    if LAYOUT or own_groups_ptr is not None:
        groups, groups_high = load_groups(own_groups_ptr, index, num_own, -1, group_run, LAYOUT)
    per_logit = base2_scale(temperature_ptr, temperature_value, IS_SCALE)
    own_factor = tl.zeros([BLOCK_OWN], tl.float32) + per_logit
    if NORMALIZE:
        own_factor *= tl.load(own_scale_ptr + index, mask=index < num_own, other=0.0)
    inverse_peak = 1.0
    if peak_ptr is not None:
        peak = tl.load(peak_ptr).to(tl.float32)
        inverse_peak = tl.where(peak == 0.0, 0.0, 1.0 / peak)
    if OWN_IS_QUERY:
        a, b, ratio, uniform = _load_statistics(statistics_ptr, index, num_own, IS_SUM)
        if UPSTREAM_ROWS:
            own_weight = tl.load(upstream_ptr + index, mask=index < num_own, other=0.0)
            own_weight = own_weight.to(tl.float32) * inverse_peak

    element: tl.constexpr = own_ptr.dtype.element_ty
    grad = tl.zeros([BLOCK_OWN, BLOCK_D], tl.float32)
    along = tl.zeros([BLOCK_OWN], tl.float32)
    first = part * others_a_part
    last = tl.minimum(first + others_a_part, num_other)
    if LAYOUT:
        own_start = tl.program_id(0) * BLOCK_OWN
        first, last = span_of_other_groups(
            first, last, own_start, num_other, group_run, BLOCK_OWN, BLOCK_OTHER
        )
    for start in tl.range(first, last, BLOCK_OTHER):
        others = start + tl.arange(0, BLOCK_OTHER)
        logits, other, squares = similarities(
            own, own_ptr, index, num_own, stride_own, stride_own_dim,
            other_ptr, others, num_other, stride_other, stride_other_dim, D,
            False, SINGLE, PRECISION, BLOCK_D,
        )  # fmt: skip
        logits *= own_factor[:, None]
        if NORMALIZE:
            other_scale = tl.load(other_scale_ptr + others, mask=others < num_other, other=0.0)
            logits *= other_scale[None, :]
        slopes = tl.zeros([BLOCK_OWN, BLOCK_OTHER], tl.float32)
        if UPSTREAM_ROWS and OTHER_IS_QUERY:
            weight = tl.load(upstream_ptr + others, mask=others < num_other, other=0.0)
            other_weight = weight.to(tl.float32) * inverse_peak
        positive, ignored = exact_masks(
            ids, ids_high, groups, groups_high, other_ids_ptr, other_groups_ptr, others, num_other,
            id_run, num_ids, group_run, LAYOUT,
        )  # fmt: skip
        if OWN_IS_QUERY:
            slopes = _slopes(logits, positive, a, b, ratio, uniform, 1, IS_SUM)
            if UPSTREAM_ROWS:
                slopes *= own_weight[:, None]
        if OTHER_IS_QUERY:
            c, d, other_ratio, other_uniform = _load_statistics(
                statistics_ptr, others, num_other, IS_SUM
            )
            back = _slopes(logits, positive, c, d, other_ratio, other_uniform, 0, IS_SUM)
            if UPSTREAM_ROWS:
                back *= other_weight[None, :]
            slopes += back
        slopes = tl.where(ignored, 0.0, slopes)
        if NORMALIZE:
            along += tl.sum(slopes * logits, 1)
        if not SINGLE:
            other = load_tile(other_ptr, others, dims, num_other, D, stride_other, stride_other_dim)
        if element == tl.float16:
            slopes *= HALF_SCALE
            if NORMALIZE:
                # Not onto the slopes: the inverse of a short length would overflow them.
                other = (other * other_scale[:, None]).to(element)
        elif NORMALIZE:
            slopes *= other_scale[None, :]
        grad = tl.dot(slopes.to(element), other, grad, input_precision=PRECISION)

    if element == tl.float16:
        grad *= 1.0 / HALF_SCALE
    if part_grad_ptr is None:
        _store_gradient(
            grad, along, own, own_scale_ptr, grad_ptr, upstream_ptr, count_ptr, peak_ptr,
            temperature_ptr, temperature_value, index, dims, num_own, D,
            IS_SCALE, UPSTREAM_ROWS, NORMALIZE,
        )  # fmt: skip
    else:
        at = part.to(tl.int64) * num_own + index
        inside = index < num_own
        tl.store(
            part_grad_ptr + at[:, None] * D + dims[None, :], grad,
            mask=inside[:, None] & (dims < D)[None, :],
        )  # fmt: skip
        if NORMALIZE:
            limit = tl.where(tl.program_id(1) == 0, num_own, 0)
            tl.store(part_along_ptr + at, along, mask=index < limit)


@triton.jit
def _contrastive_bwd_merge_kernel(
    part_grad_ptr, part_along_ptr, own_ptr, temperature_ptr, upstream_ptr, count_ptr, peak_ptr,
    own_scale_ptr, grad_ptr,
    temperature_value, num_own, D, P, stride_own, stride_own_dim,
    IS_SCALE: tl.constexpr, UPSTREAM_ROWS: tl.constexpr, NORMALIZE: tl.constexpr,
    BLOCK_OWN: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Add up the parts of a block in their order, and finish."""
    index = tl.program_id(0) * BLOCK_OWN + tl.arange(0, BLOCK_OWN)
    dims = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = index < num_own
    grad = tl.zeros([BLOCK_OWN, BLOCK_D], tl.float32)
    along = tl.zeros([BLOCK_OWN], tl.float32)
    for part in range(P):
        at = tl.cast(part, tl.int64) * num_own + index
        mask = inside[:, None] & (dims < D)[None, :]
        grad += tl.load(part_grad_ptr + at[:, None] * D + dims[None, :], mask=mask, other=0.0)
        if NORMALIZE:
            along += tl.load(part_along_ptr + at, mask=inside, other=0.0)
    own = load_tile(own_ptr, index, dims, num_own, D, stride_own, stride_own_dim)
    _store_gradient(
        grad, along, own, own_scale_ptr, grad_ptr, upstream_ptr, count_ptr, peak_ptr,
        temperature_ptr, temperature_value, index, dims, num_own, D,
        IS_SCALE, UPSTREAM_ROWS, NORMALIZE,
    )  # fmt: skip


class _Side(NamedTuple):
    """One side of the matrix of logits: its embeddings, ids, groups, and scales (or [0])."""

    rows: Tensor
    ids: Tensor | None
    groups: Tensor | None
    scale: Tensor
    is_query: bool  # it has the statistics


class _Upstream(NamedTuple):
    """Gradient of the loss, what a mean divides it by, and the largest size of its rows."""

    value: Tensor
    num_valid: Tensor | None
    peak: Tensor | None


def compute_gradients(
    problem: Problem, saved: Saved, upstream: Tensor, needs: Needs, *, dtype: torch.dtype
) -> Gradients:
    """Launch once for query and once for key, or once for both; see streaming_backward.

    One more launch for each side that is split into parts. The launch for the query also stores the
    gradient of the temperature, unless the loss has rows: torch computes it then.
    """
    needs_query, needs_key, needs_temperature = needs
    own, slope = problem.key is None, saved.slope
    query_ids, key_ids, query_groups, key_groups = labels_of(problem)
    query_side = _Side(problem.query, query_ids, query_groups, saved.query_scale, True)
    key_scale = saved.query_scale if own else saved.key_scale
    key_side = _Side(problem.columns, key_ids, key_groups, key_scale, own)
    # float16 slopes are weighted by rows before they become operands: 1 is the largest weight then.
    peak = None
    if upstream.ndim and problem.query.dtype == torch.float16:
        peak = torch.linalg.vector_norm(upstream, float("inf"))
    num_valid = saved.num_valid if problem.settings.reduction == "mean" else None
    weights = _Upstream(upstream.contiguous(), num_valid, peak)
    # One tensor each: an op may not return one twice.
    grad_query, grad_key = (slope.new_empty(0, dtype=dtype) for _ in range(2))
    grad_temperature, of_temperature = slope.new_empty(0), None
    if needs_temperature and needs_query and not upstream.ndim:
        grad_temperature = slope.new_empty(())
        of_temperature = slope, grad_temperature
    elif needs_temperature:
        grad_temperature = temperature_gradient(problem, slope, upstream)
    if needs_query:
        grad_query = _launch(
            problem, query_side, key_side, saved.statistics, weights, of_temperature, dtype
        )
    if needs_key and not own:
        grad_key = _launch(problem, key_side, query_side, saved.statistics, weights, None, dtype)
    return grad_query, grad_key, grad_temperature


def _launch(
    problem: Problem,
    own: _Side,
    other: _Side,
    statistics: Tensor,
    upstream: _Upstream,
    of_temperature: tuple[Tensor, Tensor] | None,
    dtype: torch.dtype,
) -> Tensor:
    """Return the gradient of the own side.

    `of_temperature`: the slope, and where the gradient of the temperature is to be stored.
    """
    settings = problem.settings
    num_own, dim = own.rows.shape
    num_other = other.rows.shape[0]
    heavy, placed = is_heavy(settings), settings.layout is not None
    aligned = is_aligned(own.rows, other.rows)
    tile = backward_tile(own.rows.dtype, num_own, dim, heavy=heavy, placed=placed, aligned=aligned)
    num_blocks, num_slices = triton.cdiv(num_own, tile.own), triton.cdiv(dim, tile.dim)
    parts, others_a_part = split(
        own.rows.device, num_blocks * num_slices, num_other, tile.other, programs=1, min_tiles=8
    )
    grad = own.rows.new_empty((num_own, dim), dtype=dtype)
    part_grad = part_along = None
    if parts > 1:
        part_grad = statistics.new_empty((parts, num_own, dim))
        part_along = statistics.new_empty((parts, num_own if settings.normalize else 0))
    shared = {"UPSTREAM_ROWS": upstream.value.ndim > 0, "NORMALIZE": settings.normalize}
    _contrastive_bwd_kernel[(num_blocks, num_slices, parts)](
        own.rows, other.rows, own.ids, other.ids, own.groups, other.groups, problem.temperature,
        *upstream, statistics, own.scale, other.scale, grad, part_grad, part_along,
        *(of_temperature or (None, None)),
        problem.temperature_value, num_own, num_other, dim, others_a_part,
        *own.rows.stride(), *other.rows.stride(), **layout_of(problem),
        OWN_IS_QUERY=own.is_query, OTHER_IS_QUERY=other.is_query,
        IS_SUM=settings.positives == "sum",
        SINGLE=dim <= tile.dim, PRECISION=settings.precision,
        **shared, **tile.launch_options(),
    )  # fmt: skip
    if parts > 1:
        block_d = min(tile.dim, 64)
        _contrastive_bwd_merge_kernel[(triton.cdiv(num_own, 16), triton.cdiv(dim, block_d))](
            part_grad, part_along, own.rows, problem.temperature, *upstream, own.scale, grad,
            problem.temperature_value, num_own, dim, parts, *own.rows.stride(),
            IS_SCALE=settings.is_scale, BLOCK_OWN=16, BLOCK_D=block_d, **shared,
        )  # fmt: skip
    return grad
