"""The forward kernel of the contrastive softmax and its launcher; needs triton.

loss.py holds the formula, and streaming.py the same steps as torch operations. The differences:
logits and log-sum-exps are in base 2 (one exp2 per element), rows and candidates are cut into
blocks, and where rows alone give too few programs the candidates are split into parts as well.
A second kernel (triton_merge.py) merges the parts in a fixed order: no atomics, so that two runs
agree bit by bit.

Legend: N rows (query), M candidates (key), D embedding size. In the backward a program *owns* some
rows (or candidates), whose gradient it adds up, and *streams* over the other side.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

import torch
import triton
import triton.language as tl

from fastdual.kernels.contrastive.problem import (
    NUM_FIELDS,
    NUM_FIELDS_WITH_METRICS,
    Partials,
    Problem,
)
from fastdual.kernels.contrastive.triton_shared import (
    LOWEST,
    base2_scale,
    exact_masks,
    is_special,
    length_scale,
    load_groups,
    load_ids,
    load_tile,
    similarities,
    span_of_other_groups,
)
from fastdual.kernels.contrastive.triton_tiles import (
    forward_tile,
    is_aligned,
    is_heavy,
    labels_of,
    layout_of,
    split,
)


@triton.jit
def _online_softmax(peak, mass, moment, values, MOMENT: tl.constexpr):
    """Add values [ROWS, COLUMNS] to log-sum-exps held as (peak, mass) = peak + log2(mass).

    With MOMENT moment / mass is the mean of the values, weighted by their softmax.
    """
    new_peak = tl.maximum(peak, tl.max(values, 1))
    # No value yet: any finite peak will do, and inf - inf is avoided.
    base = tl.where(new_peak == float("-inf"), 0.0, new_peak)
    shares = tl.exp2(values - base[:, None])
    fade = tl.exp2(peak - base)
    mass = mass * fade + tl.sum(shares, 1)
    if MOMENT:
        moment = moment * fade + tl.sum(shares * tl.maximum(values, LOWEST), 1)
    return new_peak, mass, moment


@triton.jit
def _insert(top0, top1, top2, top3, top4, value):
    """Five largest of six, in falling order."""
    top0, value = tl.maximum(top0, value), tl.minimum(top0, value)
    top1, value = tl.maximum(top1, value), tl.minimum(top1, value)
    top2, value = tl.maximum(top2, value), tl.minimum(top2, value)
    top3, value = tl.maximum(top3, value), tl.minimum(top3, value)
    return top0, top1, top2, top3, tl.maximum(top4, value)


@triton.jit
def _contrastive_fwd_kernel(
    query_ptr, key_ptr, query_ids_ptr, key_ids_ptr, query_groups_ptr, key_groups_ptr,
    temperature_ptr, fields_ptr, query_scale_ptr, key_scale_ptr,
    temperature_value, N, M, D, columns_a_part,
    stride_qn, stride_qd, stride_km, stride_kd, id_run, num_ids, group_run,
    LAYOUT: tl.constexpr, IS_SCALE: tl.constexpr, LEARNED: tl.constexpr, IS_SUM: tl.constexpr,
    METRICS: tl.constexpr, NORMALIZE: tl.constexpr, SINGLE: tl.constexpr, PRECISION: tl.constexpr,
    NUM_FIELDS: tl.constexpr,
    BLOCK_OWN: tl.constexpr, BLOCK_OTHER: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Store fields[part, :, rows] of a block of rows against a part of the candidates."""
    part = tl.program_id(1)
    rows = tl.program_id(0) * BLOCK_OWN + tl.arange(0, BLOCK_OWN)
    ids, ids_high = load_ids(query_ids_ptr, rows, N, -1, id_run, num_ids, LAYOUT)
    groups, groups_high = ids, ids_high
    if LAYOUT or query_groups_ptr is not None:
        groups, groups_high = load_groups(query_groups_ptr, rows, N, -1, group_run, LAYOUT)
    dims = tl.arange(0, BLOCK_D)
    query = load_tile(query_ptr, rows, dims, N, D, stride_qn, stride_qd)
    per_logit = base2_scale(temperature_ptr, temperature_value, IS_SCALE)
    row_factor = tl.zeros([BLOCK_OWN], tl.float32) + per_logit
    if NORMALIZE:
        lengths = tl.sum(query.to(tl.float32) * query.to(tl.float32), 1)
        for start in range(BLOCK_D, D, BLOCK_D):
            wide = load_tile(query_ptr, rows, start + dims, N, D, stride_qn, stride_qd)
            lengths += tl.sum(wide.to(tl.float32) * wide.to(tl.float32), 1)
        limit = tl.where(part == 0, N, 0)  # one part of them stores
        tl.store(query_scale_ptr + rows, length_scale(lengths), mask=rows < limit)
        row_factor *= length_scale(lengths)

    nothing = tl.full([BLOCK_OWN], float("-inf"), tl.float32)
    negative_peak, positive_peak = nothing, nothing
    negative_mass = tl.zeros([BLOCK_OWN], tl.float32)
    positive_mass = tl.zeros([BLOCK_OWN], tl.float32)
    negative_moment = tl.zeros([BLOCK_OWN], tl.float32)
    positive_moment = tl.zeros([BLOCK_OWN], tl.float32)
    positive_count = tl.zeros([BLOCK_OWN], tl.float32)
    positive_sum = tl.zeros([BLOCK_OWN], tl.float32)
    top0, top1, top2, top3, top4 = nothing, nothing, nothing, nothing, nothing
    first = part * columns_a_part
    last = tl.minimum(first + columns_a_part, M)
    if LAYOUT:
        own_start = tl.program_id(0) * BLOCK_OWN
        first, last = span_of_other_groups(
            first, last, own_start, M, group_run, BLOCK_OWN, BLOCK_OTHER
        )
    for start in tl.range(first, last, BLOCK_OTHER):
        columns = start + tl.arange(0, BLOCK_OTHER)
        logits, key, squares = similarities(
            query, query_ptr, rows, N, stride_qn, stride_qd,
            key_ptr, columns, M, stride_km, stride_kd, D, NORMALIZE, SINGLE, PRECISION, BLOCK_D,
        )  # fmt: skip
        logits *= row_factor[:, None]
        if NORMALIZE:
            logits *= length_scale(squares)[None, :]
            if key_scale_ptr is not None:
                limit = tl.where(tl.program_id(0) == 0, M, 0)
                tl.store(key_scale_ptr + columns, length_scale(squares), mask=columns < limit)
        special = is_special(
            ids, groups, key_ids_ptr, key_groups_ptr, start, M,
            id_run, num_ids, group_run, LAYOUT, BLOCK_OTHER,
        )  # fmt: skip
        if special > 0:
            positive, ignored = exact_masks(
                ids, ids_high, groups, groups_high, key_ids_ptr, key_groups_ptr, columns, M,
                id_run, num_ids, group_run, LAYOUT,
            )  # fmt: skip
            # A logit of -inf, from an infinite embedding, must not look like no positive at all.
            present = tl.where(logits < LOWEST, LOWEST, logits)
            positives = tl.where(positive, present, float("-inf"))
            positive_peak, positive_mass, positive_moment = _online_softmax(
                positive_peak, positive_mass, positive_moment, positives, LEARNED
            )
            if not IS_SUM:
                positive_count += tl.sum(positive.to(tl.float32), 1)
                positive_sum += tl.sum(tl.where(positive, logits, 0.0), 1)
        # Separate from the above, so that registers hold less at a time.
        if special > 0:
            positive, ignored = exact_masks(
                ids, ids_high, groups, groups_high, key_ids_ptr, key_groups_ptr, columns, M,
                id_run, num_ids, group_run, LAYOUT,
            )  # fmt: skip
            logits = tl.where(positive | ignored, float("-inf"), logits)
        negative_peak, negative_mass, negative_moment = _online_softmax(
            negative_peak, negative_mass, negative_moment, logits, LEARNED
        )
        if METRICS:
            # Take out each row's largest negative while any row's belongs to its best five.
            largest, at = tl.max(logits, 1, return_indices=True)
            while tl.max((largest > top4).to(tl.int32), 0) > 0:
                top0, top1, top2, top3, top4 = _insert(top0, top1, top2, top3, top4, largest)
                lanes = tl.arange(0, BLOCK_OTHER)
                logits = tl.where(lanes[None, :] == at[:, None], float("-inf"), logits)
                largest, at = tl.max(logits, 1, return_indices=True)

    field = part.to(tl.int64) * NUM_FIELDS
    inside = rows < N
    tl.store(fields_ptr + field * N + rows, negative_peak + tl.log2(negative_mass), mask=inside)
    tl.store(
        fields_ptr + (field + 1) * N + rows, positive_peak + tl.log2(positive_mass), mask=inside
    )
    if not IS_SUM:
        tl.store(fields_ptr + (field + 2) * N + rows, positive_count, mask=inside)
        tl.store(fields_ptr + (field + 3) * N + rows, positive_sum, mask=inside)
    if LEARNED:
        # Any mass at all is at least 1.
        negative_moment /= tl.maximum(negative_mass, 1.0)
        positive_moment /= tl.maximum(positive_mass, 1.0)
        tl.store(fields_ptr + (field + 4) * N + rows, negative_moment, mask=inside)
        tl.store(fields_ptr + (field + 5) * N + rows, positive_moment, mask=inside)
    if METRICS:
        # The best positive is the peak of the positives' log-sum-exp.
        tl.store(fields_ptr + (field + 6) * N + rows, positive_peak, mask=inside)
        tl.store(fields_ptr + (field + 7) * N + rows, top0, mask=inside)
        tl.store(fields_ptr + (field + 8) * N + rows, top1, mask=inside)
        tl.store(fields_ptr + (field + 9) * N + rows, top2, mask=inside)
        tl.store(fields_ptr + (field + 10) * N + rows, top3, mask=inside)
        tl.store(fields_ptr + (field + 11) * N + rows, top4, mask=inside)


def compute_partials(problem: Problem) -> Partials:
    """Launch once; as streaming.compute_partials, but the candidates come in parts."""
    query, key, own = problem.query, problem.columns, problem.key is None
    settings = problem.settings
    num_rows, dim = query.shape
    num_columns = key.shape[0]
    heavy, placed = is_heavy(settings, metrics=settings.metrics), settings.layout is not None
    aligned = is_aligned(query, key)
    tile = forward_tile(query.dtype, num_rows, dim, heavy=heavy, placed=placed, aligned=aligned)
    num_blocks = triton.cdiv(num_rows, tile.own)
    parts, columns_a_part = split(
        query.device, num_blocks, num_columns, tile.other, programs=2, min_tiles=2
    )
    num_fields = NUM_FIELDS_WITH_METRICS if settings.metrics else NUM_FIELDS
    fields = query.new_empty((parts, num_fields, num_rows), dtype=torch.float32)
    query_scale = fields.new_empty(num_rows if settings.normalize else 0)
    stores_key_scale = settings.normalize and not own
    key_scale = fields.new_empty(num_columns if stores_key_scale else 0)
    _contrastive_fwd_kernel[(num_blocks, parts)](
        query, key, *labels_of(problem), problem.temperature, fields, query_scale,
        key_scale if stores_key_scale else None,
        problem.temperature_value, num_rows, num_columns, dim, columns_a_part,
        *query.stride(), *key.stride(), **layout_of(problem),
        LEARNED=settings.learned, IS_SUM=settings.positives == "sum", METRICS=settings.metrics,
        NORMALIZE=settings.normalize, SINGLE=dim <= tile.dim, PRECISION=settings.precision,
        NUM_FIELDS=num_fields, **tile.launch_options(),
    )  # fmt: skip
    return Partials(fields, query_scale, key_scale)
