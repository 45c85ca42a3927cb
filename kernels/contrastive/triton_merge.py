"""The kernels that merge the parts of the contrastive softmax's forward, and their launcher.

They need triton. The names of the numbered fields are in problem.py.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastdual.kernels.contrastive.problem import Merged, Settings
from fastdual.kernels.contrastive.triton_shared import (
    LN_2,
    LOWEST,
    base2_softplus,
)

MERGE_ROWS = 1024  # of a program


@triton.jit
def _merge_lse(fields_ptr, field, rows, N, P, NUM_FIELDS: tl.constexpr, BLOCK: tl.constexpr):
    """Return the log-sum-exp [BLOCK] of one field over the P parts."""
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
    """Return the sum [BLOCK] of one field over the P parts."""
    total = tl.zeros([BLOCK], tl.float32)
    for part in range(P):
        at = fields_ptr + (tl.cast(part, tl.int64) * NUM_FIELDS + field) * N + rows
        total += tl.load(at, mask=rows < N, other=0.0)
    return total


@triton.jit
def _merge_mean(
    fields_ptr, field, lse_field, lse, rows, N, P, NUM_FIELDS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Return the mean [BLOCK] of one field over the P parts, weighted by shares of `lse`."""
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
    """Store hits[0 .. 2, rows]: best positive first, among the first five, there is a positive."""
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
    """Merge all parts of a block of rows as streaming.merge_partials does.

    loss[block] is the sum of the losses, slope[block] that of the slopes (unless rows are wanted),
    count[block] the number of rows that have a positive. IS_MEAN: this is the only block, and the
    sums are divided.
    """
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = rows < N
    negative_lse = _merge_lse(fields_ptr, 0, rows, N, P, NUM_FIELDS, BLOCK)
    positive_lse = _merge_lse(fields_ptr, 1, rows, N, P, NUM_FIELDS, BLOCK)
    # Not `>`: a NaN has to reach the loss.
    valid = inside & (positive_lse != float("-inf"))
    positive_lse = tl.where(positive_lse <= LOWEST, float("-inf"), positive_lse)
    # Rows without positives get a finite stand-in, which `valid` cuts off.
    positive_lse = tl.where(valid, positive_lse, 0.0)
    gap = negative_lse - positive_lse
    share = tl.exp2(-base2_softplus(-gap))  # of the negatives in the mass
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
    """Add up the results of all blocks of the merge, by one program in a fixed order."""
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


def merge_partials(fields: Tensor, settings: Settings) -> Merged:
    """Launch once, or twice for more than MERGE_ROWS rows; as streaming.merge_partials."""
    positives, reduction, learned = settings.positives, settings.reduction, settings.learned
    parts, num_fields, num_rows = fields.shape
    num_blocks = triton.cdiv(num_rows, MERGE_ROWS)
    metrics, is_mean = settings.metrics, reduction == "mean"
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
        NUM_FIELDS=num_fields, BLOCK=MERGE_ROWS, num_warps=8, maxnreg=80,
    )  # fmt: skip
    if num_blocks > 1:
        totals_slope = learned and not by_row
        _contrastive_total_kernel[(1,)](
            losses, counts, slopes if totals_slope else None, loss, num_valid,
            slope if totals_slope else None, num_blocks, IS_MEAN=is_mean, BLOCK=1024, num_warps=4,
        )  # fmt: skip
    return Merged(loss if rows is None else rows, num_valid, hits, statistics, slope)
