"""Forward kernels of the contrastive softmax and their launchers; needs triton.

contrastive.py holds the formula, streaming.py the same steps in torch, where the slopes are
derived. Differences here: logits and log-sum-exps are in base 2 (one exp2 an element), rows and
candidates are cut into blocks, and where rows alone give too few programs the candidates are split
into parts as well, which a second kernel merges in a fixed order: no atomics, two runs agree bit by
bit.

Legend: N rows (query), M candidates (key), D embedding size. In the backward a program *owns* some
rows (or candidates), whose gradient it adds up, and *streams* over the other side.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastdual.kernels.contrastive.problem import (
    NUM_FIELDS,
    NUM_FIELDS_WITH_METRICS,
    Merged,
    Partials,
    Problem,
)
from fastdual.kernels.contrastive.triton_tiles import (
    LN_2,
    base2_scale,
    base2_softplus,
    exact_masks,
    forward_tile,
    is_aligned,
    is_heavy,
    is_special,
    labels_of,
    layout_of,
    length_scale,
    load_groups,
    load_ids,
    load_tile,
    similarities,
    span_of_other_groups,
    split,
)

# Finite, so that a share of 0 times it is 0.
LOWEST = tl.constexpr(-3e38)


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
    """fields[part, :, rows] of a block of rows against a part of the candidates: problem.py."""
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
            # One of -inf, of an embedding that is infinite, is not to look like none at all.
            present = tl.where(logits < LOWEST, LOWEST, logits)
            positives = tl.where(positive, present, float("-inf"))
            positive_peak, positive_mass, positive_moment = _online_softmax(
                positive_peak, positive_mass, positive_moment, positives, LEARNED
            )
            if not IS_SUM:
                positive_count += tl.sum(positive.to(tl.float32), 1)
                positive_sum += tl.sum(tl.where(positive, logits, 0.0), 1)
        # Apart from the above, so that less is in registers at a time.
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
            # Take out a row's largest negative while any row has one that belongs to its best five.
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


@triton.jit
def _merge_lse(fields_ptr, field, rows, N, P, NUM_FIELDS: tl.constexpr, BLOCK: tl.constexpr):
    """Log-sum-exp [BLOCK] of one field over the P parts."""
    peak = tl.full([BLOCK], float("-inf"), tl.float32)
    mass = tl.zeros([BLOCK], tl.float32)
    for part in range(P):
        at = fields_ptr + (tl.cast(part, tl.int64) * NUM_FIELDS + field) * N + rows
        value = tl.load(at, mask=rows < N, other=float("-inf"))
        new_peak = tl.maximum(peak, value)
        base = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        mass = mass * tl.exp2(peak - base) + tl.exp2(value - base)
        peak = new_peak
    return peak + tl.log2(mass)


@triton.jit
def _merge_sum(fields_ptr, field, rows, N, P, NUM_FIELDS: tl.constexpr, BLOCK: tl.constexpr):
    """Sum [BLOCK] of one field over the P parts."""
    total = tl.zeros([BLOCK], tl.float32)
    for part in range(P):
        at = fields_ptr + (tl.cast(part, tl.int64) * NUM_FIELDS + field) * N + rows
        total += tl.load(at, mask=rows < N, other=0.0)
    return total


@triton.jit
def _merge_mean(
    fields_ptr, field, lse_field, lse, rows, N, P, NUM_FIELDS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Mean [BLOCK] of one field over the P parts, weighted by their shares of the log-sum-exp."""
    base = tl.where(lse == float("-inf"), 0.0, lse)
    mean = tl.zeros([BLOCK], tl.float32)
    for part in range(P):
        at = fields_ptr + tl.cast(part, tl.int64) * NUM_FIELDS * N + rows
        part_lse = tl.load(at + lse_field * N, mask=rows < N, other=float("-inf"))
        mean += tl.exp2(part_lse - base) * tl.load(at + field * N, mask=rows < N, other=0.0)
    return mean


@triton.jit
def _store_hits(
    fields_ptr, hits_ptr, rows, valid, N, P, NUM_FIELDS: tl.constexpr, BLOCK: tl.constexpr
):
    """hits[0 .. 2, rows]: best positive first, among the first five, there is one."""
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    for part in range(P):
        at = fields_ptr + (tl.cast(part, tl.int64) * NUM_FIELDS + 6) * N + rows
        best = tl.maximum(best, tl.load(at, mask=rows < N, other=float("-inf")))
    beaten_by = tl.zeros([BLOCK], tl.int32)
    for part in range(P):
        for field in range(7, NUM_FIELDS):
            at = fields_ptr + (tl.cast(part, tl.int64) * NUM_FIELDS + field) * N + rows
            top = tl.load(at, mask=rows < N, other=float("-inf"))
            beaten_by += (top > best).to(tl.int32)
    inside = rows < N
    at = rows.to(tl.int64)
    tl.store(hits_ptr + at, valid & (beaten_by < 1), mask=inside)
    tl.store(hits_ptr + at + N, valid & (beaten_by < 5), mask=inside)
    tl.store(hits_ptr + at + N + N, valid, mask=inside)


@triton.jit
def _contrastive_merge_kernel(
    fields_ptr, rows_ptr, loss_ptr, count_ptr, hits_ptr, statistics_ptr, slope_ptr, N, P,
    IS_SUM: tl.constexpr, IS_MEAN: tl.constexpr, NUM_FIELDS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """From all parts of a block of rows to losses, statistics ...: streaming.merge_partials.

    loss[block] is the sum of the losses, slope[block] that of the slopes (if rows are not asked
    for), count[block] the number of rows that have a positive; IS_MEAN says that this is the only
    block, and divides.
    """
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = rows < N
    negative_lse = _merge_lse(fields_ptr, 0, rows, N, P, NUM_FIELDS, BLOCK)
    positive_lse = _merge_lse(fields_ptr, 1, rows, N, P, NUM_FIELDS, BLOCK)
    # Not `>`: a NaN has to reach the loss.
    valid = inside & (positive_lse != float("-inf"))
    positive_lse = tl.where(positive_lse <= LOWEST, float("-inf"), positive_lse)
    # A stand-in for rows without positives: finite, and cut off by `valid`.
    positive_lse = tl.where(valid, positive_lse, 0.0)
    gap = negative_lse - positive_lse
    share = tl.exp2(-base2_softplus(-gap))  # of the mass, that the negatives have
    loss = base2_softplus(gap)
    at_negative = positive_lse + loss
    if IS_SUM:
        at_positive = positive_lse + base2_softplus(-gap)
    else:
        count = tl.maximum(_merge_sum(fields_ptr, 2, rows, N, P, NUM_FIELDS, BLOCK), 1.0)
        mean = _merge_sum(fields_ptr, 3, rows, N, P, NUM_FIELDS, BLOCK) / count
        loss += positive_lse - mean
        at_positive = positive_lse - tl.log2(count)
        at = statistics_ptr + rows.to(tl.int64) + N + N
        tl.store(at, tl.where(valid, share / count, 0.0), mask=inside)
        tl.store(at + N, tl.where(valid & (count > 1), 1.0 / count, 0.0), mask=inside)
    tl.store(statistics_ptr + rows, tl.where(valid, at_positive, float("inf")), mask=inside)
    tl.store(statistics_ptr + N + rows, tl.where(valid, at_negative, float("inf")), mask=inside)
    loss = tl.where(valid, loss * LN_2, 0.0)
    if hits_ptr is not None:
        _store_hits(fields_ptr, hits_ptr, rows, valid, N, P, NUM_FIELDS, BLOCK)
    if rows_ptr is not None:
        tl.store(rows_ptr + rows, loss, mask=inside)
    total = tl.sum(loss, 0)
    num_valid = tl.sum(valid.to(tl.float32), 0)
    divisor = tl.maximum(num_valid, 1.0) if IS_MEAN else 1.0
    tl.store(loss_ptr + tl.program_id(0), total / divisor)
    tl.store(count_ptr + tl.program_id(0), num_valid)
    if slope_ptr is not None:
        # streaming._temperature_slopes
        negative_mean = _merge_mean(fields_ptr, 4, 0, negative_lse, rows, N, P, NUM_FIELDS, BLOCK)
        positive_mean = _merge_mean(fields_ptr, 5, 1, positive_lse, rows, N, P, NUM_FIELDS, BLOCK)
        slope = share * (negative_mean - positive_mean)
        if not IS_SUM:
            slope += tl.where(count > 1, positive_mean - mean, 0.0)
        slope = tl.where(valid, slope * LN_2, 0.0)
        if rows_ptr is not None:
            tl.store(slope_ptr + rows, slope, mask=inside)
        else:
            tl.store(slope_ptr + tl.program_id(0), tl.sum(slope, 0) / divisor)


@triton.jit
def _contrastive_total_kernel(
    losses_ptr, counts_ptr, slopes_ptr, loss_ptr, count_ptr, slope_ptr, num_blocks,
    IS_MEAN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program adds what the merge's blocks have found, in a fixed order."""
    loss = tl.zeros([BLOCK], tl.float32)
    count = tl.zeros([BLOCK], tl.float32)
    for start in range(0, num_blocks, BLOCK):
        at = start + tl.arange(0, BLOCK)
        loss += tl.load(losses_ptr + at, mask=at < num_blocks, other=0.0)
        count += tl.load(counts_ptr + at, mask=at < num_blocks, other=0.0)
    num_valid = tl.sum(count, 0)
    divisor = tl.maximum(num_valid, 1.0) if IS_MEAN else 1.0
    tl.store(loss_ptr, tl.sum(loss, 0) / divisor)
    tl.store(count_ptr, num_valid)
    if slope_ptr is not None:
        slope = tl.zeros([BLOCK], tl.float32)
        for start in range(0, num_blocks, BLOCK):
            at = start + tl.arange(0, BLOCK)
            slope += tl.load(slopes_ptr + at, mask=at < num_blocks, other=0.0)
        tl.store(slope_ptr, tl.sum(slope, 0) / divisor)


MERGE_ROWS = 1024


def compute_partials(problem: Problem, *, metrics: bool) -> Partials:
    """One launch; as streaming.compute_partials, but the candidates come in parts."""
    query, key, own = problem.query, problem.columns, problem.key is None
    num_rows, dim = query.shape
    num_columns = key.shape[0]
    heavy, placed = is_heavy(problem, metrics=metrics), problem.layout is not None
    aligned = is_aligned(query, key)
    tile = forward_tile(query.dtype, num_rows, dim, heavy=heavy, placed=placed, aligned=aligned)
    num_blocks = triton.cdiv(num_rows, tile.own)
    parts, columns_a_part = split(
        query.device, num_blocks, num_columns, tile.other, programs=2, min_tiles=2
    )
    num_fields = NUM_FIELDS_WITH_METRICS if metrics else NUM_FIELDS
    fields = query.new_empty((parts, num_fields, num_rows), dtype=torch.float32)
    query_scale = fields.new_empty(num_rows if problem.normalize else 0)
    stores_key_scale = problem.normalize and not own
    key_scale = fields.new_empty(num_columns if stores_key_scale else 0)
    _contrastive_fwd_kernel[(num_blocks, parts)](
        query, key, *labels_of(problem), problem.temperature, fields, query_scale,
        key_scale if stores_key_scale else None,
        problem.temperature_value, num_rows, num_columns, dim, columns_a_part,
        *query.stride(), *key.stride(), **layout_of(problem),
        LEARNED=problem.learned, IS_SUM=problem.positives == "sum", METRICS=metrics,
        NORMALIZE=problem.normalize, SINGLE=dim <= tile.dim, PRECISION=problem.precision,
        NUM_FIELDS=num_fields, **tile.launch_options(),
    )  # fmt: skip
    return Partials(fields, query_scale, key_scale)


def merge_partials(fields: Tensor, *, positives: str, reduction: str, learned: bool) -> Merged:
    """One launch, two for more than MERGE_ROWS rows; as streaming.merge_partials."""
    parts, num_fields, num_rows = fields.shape
    num_blocks = triton.cdiv(num_rows, MERGE_ROWS)
    metrics, is_mean = num_fields > NUM_FIELDS, reduction == "mean"
    by_row = reduction == "none"
    rows = fields.new_empty(num_rows) if by_row else None
    hits = fields.new_empty((3, num_rows if metrics else 0), dtype=torch.bool)
    statistics = fields.new_empty((2 if positives == "sum" else 4, num_rows))
    loss, num_valid = fields.new_empty(()), fields.new_empty(())
    slope = fields.new_empty(((num_rows,) if by_row else ()) if learned else 0)
    losses, counts, slopes = loss, num_valid, slope
    if num_blocks > 1:
        losses, counts = fields.new_empty(num_blocks), fields.new_empty(num_blocks)
        slopes = slope if by_row else fields.new_empty(num_blocks)
    _contrastive_merge_kernel[(num_blocks,)](
        fields, rows, losses, counts, hits if metrics else None, statistics,
        slopes if learned else None, num_rows, parts,
        IS_SUM=positives == "sum", IS_MEAN=is_mean and num_blocks == 1,
        NUM_FIELDS=num_fields, BLOCK=MERGE_ROWS, num_warps=8,
    )  # fmt: skip
    if num_blocks > 1:
        totals_slope = learned and not by_row
        _contrastive_total_kernel[(1,)](
            losses, counts, slopes if totals_slope else None, loss, num_valid,
            slope if totals_slope else None, num_blocks, IS_MEAN=is_mean, BLOCK=1024, num_warps=4,
        )  # fmt: skip
    return Merged(loss if rows is None else rows, num_valid, hits, statistics, slope)
