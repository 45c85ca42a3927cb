"""The kernels that merge the parts of the contrastive softmax's forward, and their launcher.

They need triton. The names of the numbered fields are in problem.py.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastdual.kernels.contrastive.problem import NUM_FIELDS, Merged, Problem
from fastdual.kernels.contrastive.triton_shared import LN_2, LOWEST, base2_softplus

FIELDS = tl.constexpr(NUM_FIELDS)


@triton.jit
def _load_parts(fields_ptr, field, start, rows, N, P, ABSENT, PARTS: tl.constexpr):
    """Return one field [PARTS, ROWS] of the parts from `start` on."""
    parts = start + tl.arange(0, PARTS)
    at = fields_ptr + (parts.to(tl.int64)[:, None] * FIELDS + field) * N + rows[None, :]
    return tl.load(at, mask=(parts < P)[:, None] & (rows < N)[None, :], other=ABSENT)


@triton.jit
def _merge_lse(fields_ptr, field, rows, N, P, PARTS: tl.constexpr):
    """Return the log-sum-exp [ROWS] of one field over all parts."""
    peak = tl.full(rows.shape, float("-inf"), tl.float32)
    mass = tl.zeros(rows.shape, tl.float32)
    for start in range(0, P, PARTS):
        values = _load_parts(fields_ptr, field, start, rows, N, P, float("-inf"), PARTS)
        new_peak = tl.maximum(peak, tl.max(values, 0))
        base = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        mass = mass * tl.exp2(peak - base) + tl.sum(tl.exp2(values - base[None, :]), 0)
        peak = new_peak
    return peak + tl.log2(mass)


@triton.jit
def _merge_sum(fields_ptr, field, rows, N, P, PARTS: tl.constexpr):
    """Return the sum [ROWS] of one field over all parts."""
    total = tl.zeros(rows.shape, tl.float32)
    for start in range(0, P, PARTS):
        total += tl.sum(_load_parts(fields_ptr, field, start, rows, N, P, 0.0, PARTS), 0)
    return total


@triton.jit
def _merge_mean(fields_ptr, field, lse_field, lse, rows, N, P, PARTS: tl.constexpr):
    """Return the mean [ROWS] of one field over all parts, weighted by shares of `lse`."""
    base = tl.where(lse == float("-inf"), 0.0, lse)
    mean = tl.zeros(rows.shape, tl.float32)
    for start in range(0, P, PARTS):
        lses = _load_parts(fields_ptr, lse_field, start, rows, N, P, float("-inf"), PARTS)
        values = _load_parts(fields_ptr, field, start, rows, N, P, 0.0, PARTS)
        mean += tl.sum(tl.exp2(lses - base[None, :]) * values, 0)
    return mean


@triton.jit
def _store_hits(counts_ptr, num_counts, hits_ptr, rows, valid, N):
    """Store hits[0 .. 2, rows]: best positive first, among the first five, there is a positive."""
    inside = rows < N
    beaten_by = tl.zeros(rows.shape, tl.int32)
    for part in range(num_counts):
        beaten_by += tl.load(counts_ptr + tl.cast(part, tl.int64) * N + rows, mask=inside, other=0)
    at = hits_ptr + rows.to(tl.int64)
    tl.store(at, valid & (beaten_by < 1), mask=inside)
    tl.store(at + N, valid & (beaten_by < 5), mask=inside)
    tl.store(at + N + N, valid, mask=inside)


@triton.jit
def _merge_kernel(
    fields_ptr, counts_ptr, rows_ptr, loss_ptr, count_ptr, hits_ptr, statistics_ptr, slope_ptr,
    N, P, num_counts,
    IS_SUM: tl.constexpr, IS_MEAN: tl.constexpr, PARTS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Merge all parts of a block of rows as streaming.merge_partials does.

    loss[block] is the sum of the losses, slope[block] that of the slopes (unless rows are wanted),
    count[block] the number of rows that have a positive. IS_MEAN: this is the only block, and the
    sums are divided.
    """
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = rows < N
    negative_lse = _merge_lse(fields_ptr, 0, rows, N, P, PARTS)
    positive_lse = _merge_lse(fields_ptr, 1, rows, N, P, PARTS)
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
        count = tl.maximum(_merge_sum(fields_ptr, 3, rows, N, P, PARTS), 1.0)
        mean = _merge_sum(fields_ptr, 4, rows, N, P, PARTS) / count
        loss += positive_lse - mean
        at_positive = positive_lse - tl.log2(count)
        at = statistics_ptr + rows.to(tl.int64) + N + N
        tl.store(at, tl.where(valid, share / count, 0.0), mask=inside)
        tl.store(at + N, tl.where(valid & (count > 1), 1.0 / count, 0.0), mask=inside)
    tl.store(statistics_ptr + rows, tl.where(valid, at_positive, float("inf")), mask=inside)
    tl.store(statistics_ptr + N + rows, tl.where(valid, at_negative, float("inf")), mask=inside)
    loss = tl.where(valid, loss * LN_2, 0.0)
    if counts_ptr is not None:
        _store_hits(counts_ptr, num_counts, hits_ptr, rows, valid, N)
    if rows_ptr is not None:
        tl.store(rows_ptr + rows, loss, mask=inside)
    num_valid = tl.sum(valid.to(tl.float32), 0)
    divisor = tl.maximum(num_valid, 1.0) if IS_MEAN else 1.0
    tl.store(loss_ptr + tl.program_id(0), tl.sum(loss, 0) / divisor)
    tl.store(count_ptr + tl.program_id(0), num_valid)
    if slope_ptr is not None:
        # streaming._temperature_slopes
        negative_mean = _merge_mean(fields_ptr, 5, 0, negative_lse, rows, N, P, PARTS)
        positive_mean = _merge_mean(fields_ptr, 6, 1, positive_lse, rows, N, P, PARTS)
        slope = share * (negative_mean - positive_mean)
        if not IS_SUM:
            slope += tl.where(count > 1, positive_mean - mean, 0.0)
        slope = tl.where(valid, slope * LN_2, 0.0)
        if rows_ptr is not None:
            tl.store(slope_ptr + rows, slope, mask=inside)
        else:
            tl.store(slope_ptr + tl.program_id(0), tl.sum(slope, 0) / divisor)


def merge_partials(problem: Problem, fields: Tensor, counts: Tensor | None) -> Merged:
    """Launch once; torch adds up the blocks of many rows. As streaming.merge_partials."""
    settings = problem.settings
    is_sum, learned = settings.positives == "sum", settings.learned
    by_row, is_mean = settings.reduction == "none", settings.reduction == "mean"
    num_parts, _, num_rows = fields.shape
    num_counts = 0 if counts is None else counts.shape[0]
    # Few rows may have many parts, which are then loaded side by side.
    parts, block = (16, 128) if num_rows <= 128 else (1, 1024)
    num_blocks = triton.cdiv(num_rows, block)
    rows = fields.new_empty(num_rows) if by_row else None
    hits = fields.new_empty((3, num_rows if num_counts else 0), dtype=torch.bool)
    statistics = fields.new_empty((2 if is_sum else 4, num_rows))
    loss, num_valid = fields.new_empty(num_blocks), fields.new_empty(num_blocks)
    slope = fields.new_empty((num_rows if by_row else num_blocks) if learned else 0)
    _merge_kernel[(num_blocks,)](
        fields, counts, rows, loss, num_valid, hits, statistics, slope if learned else None,
        num_rows, num_parts, num_counts,
        IS_SUM=is_sum, IS_MEAN=is_mean and num_blocks == 1, PARTS=parts, ROWS=block, num_warps=8,
        enable_fp_fusion=True,
    )  # fmt: skip
    num_valid = num_valid.sum() if num_blocks > 1 else num_valid.view(())
    divisor = num_valid.clamp(min=1) if num_blocks > 1 and is_mean else None

    def total(blocks: Tensor) -> Tensor:
        if num_blocks == 1:
            return blocks.view(())
        return blocks.sum() if divisor is None else blocks.sum() / divisor

    loss = total(loss) if rows is None else rows
    slope = total(slope) if learned and not by_row else slope
    return Merged(loss, num_valid, hits, statistics, slope)
