"""The forward kernels of the contrastive softmax and their launchers; need triton.

loss.py holds the formula. Logits and log-sum-exps are in base 2 (one exp2 per logit), rows and
candidates are cut into blocks, and where rows alone give too few programs the candidates are split
into parts as well. triton_merge.py merges the parts in a fixed order: no atomics, so that two runs
agree bit by bit.

Legend: N rows (query), M candidates (key), D embedding size, P parts of the candidates. A program
*owns* some rows and *streams* over the other side.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastdual.kernels.contrastive.problem import (
    NUM_FIELDS,
    Partials,
    Prepared,
    Problem,
    flags_shape,
)
from fastdual.kernels.contrastive.triton_launch import (
    block_of,
    flags_of,
    forward_tile,
    laid_out,
    sides_of,
    split,
    temperature_of,
)
from fastdual.kernels.contrastive.triton_shared import (
    FLAG,
    FLOOR,
    LOWEST,
    is_special,
    load_labels,
    load_masks,
    load_tile,
    row_factor,
    similarities,
    span_of_part,
)

FIELDS = tl.constexpr(NUM_FIELDS)


@triton.jit
def _store_scale(side, block, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Store 1 / length of a block of rows."""
    index = block * FLAG + tl.arange(0, FLAG)
    squares = tl.zeros([FLAG], tl.float32)
    for start in tl.static_range(0, D, BLOCK_D):
        tile = load_tile(side, index, start, D, BLOCK_D).to(tl.float32)
        squares += tl.sum(tile * tile, 1)
    scale = 1.0 / tl.maximum(tl.sqrt(squares), FLOOR)
    tl.store(side.scale + index, scale, mask=index < side.count)


@triton.jit
def _hash(labels):
    """Return 32 bits of each label: equal labels stay equal, others seldom become so."""
    return ((labels * -7046029254386353131) >> 32).to(tl.int32)


@triton.jit
def _prepare_kernel(
    query, key, layout, flags, first_key_block, blocks_a_part,
    D: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Store the scales of both sides, and the flags of a block of rows against a part of the key.

    Programs from `first_key_block` on have a block of the key, where it has scales of its own.
    """
    block, part = tl.program_id(0), tl.program_id(1)
    if query.scale is not None:  # noqa: SIM102, decided when the kernel is compiled
        if part == 0:
            if block < first_key_block:
                _store_scale(query, block, D, BLOCK_D)
            else:
                _store_scale(key, block - first_key_block, D, BLOCK_D)
    if flags is not None:
        ids, groups = load_labels(query, block * FLAG + tl.arange(0, FLAG), layout, -1)
        ids, groups = _hash(ids), _hash(groups)
        first = part * blocks_a_part
        last = tl.minimum(first + blocks_a_part, flags.own_stride)  # that many blocks of columns
        for other in range(first, tl.where(block < first_key_block, last, first)):
            columns = other * FLAG + tl.arange(0, FLAG)
            other_ids, other_groups = load_labels(key, columns, layout, -2)
            meets = ids[:, None] == _hash(other_ids)[None, :]
            meets |= groups[:, None] == _hash(other_groups)[None, :]
            found = tl.max(tl.max(meets.to(tl.int32), 1), 0)
            at = block * flags.own_stride + other * flags.other_stride
            tl.store(flags.blocks + at, found.to(tl.int8))


@triton.jit
def _online_softmax(peak, mass, moment, values, factor, MOMENT: tl.constexpr):
    """Add values x factor [ROWS, COLUMNS] to log-sum-exps held as peak + log2(mass).

    With MOMENT moment / mass is the mean of what was added, weighted by its softmax. The factor is
    above 0, and comes in here so that it costs nothing: product and difference are one instruction.
    """
    new_peak = tl.maximum(peak, tl.max(values, 1) * factor)
    # No value yet: any finite peak will do, and inf - inf is avoided.
    base = tl.where(new_peak == float("-inf"), 0.0, new_peak)
    shares = tl.exp2(values * factor[:, None] - base[:, None])
    fade = tl.exp2(peak - base)
    mass = mass * fade + tl.sum(shares, 1)
    if MOMENT:
        moment = moment * fade + tl.sum(shares * tl.maximum(values, LOWEST), 1) * factor
    return new_peak, mass, moment


@triton.jit
def _logits(
    tile, query, rows, key, start, D: tl.constexpr,
    BLOCK_OTHER: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Return logits [OWN, OTHER], yet to be multiplied by row_factor."""
    offsets = tl.arange(0, BLOCK_OTHER)
    logits, _ = similarities(tile, query, rows, key, start + offsets, D, BLOCK_D, PRECISION)
    if key.scale is not None:
        # The start comes first, so that the offsets are constants of the machine code.
        logits *= tl.load(key.scale + start + offsets, mask=offsets < key.count - start)[None, :]
    return logits


@triton.jit
def _forward_kernel(
    query, key, layout, flags, temperature, fields_ptr, part_length,
    LEARNED: tl.constexpr, IS_SUM: tl.constexpr, D: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_OWN: tl.constexpr, BLOCK_OTHER: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Store fields[part, :, rows] of a block of rows against a part of the candidates."""
    row, part = tl.program_id(0) * BLOCK_OWN, tl.program_id(1)
    rows = row + tl.arange(0, BLOCK_OWN)
    tile = load_tile(query, rows, 0, D, BLOCK_D)
    factor = row_factor(query, rows, temperature)
    negative_peak = tl.full([BLOCK_OWN], float("-inf"), tl.float32)
    positive_peak = negative_peak
    nothing = tl.zeros([BLOCK_OWN], tl.float32)
    negative_mass, negative_moment = nothing, nothing
    positive_mass, positive_moment = nothing, nothing
    positive_count, positive_sum = nothing, nothing
    one = nothing + 1.0
    first, last = span_of_part(query, row, key, part_length, part, layout, BLOCK_OWN, BLOCK_OTHER)
    for start in tl.range(first, last, BLOCK_OTHER):
        columns = start + tl.arange(0, BLOCK_OTHER)
        logits = _logits(tile, query, rows, key, start, D, BLOCK_OTHER, BLOCK_D, PRECISION)
        if is_special(query, row, key, start, layout, flags, BLOCK_OWN, BLOCK_OTHER):
            positive, ignored = load_masks(query, rows, key, columns, layout)
            # A logit of -inf, from an infinite embedding, must not look like no positive at all.
            scaled = tl.maximum(logits * factor[:, None], LOWEST)
            positives = tl.where(positive, scaled, float("-inf"))
            positive_peak, positive_mass, positive_moment = _online_softmax(
                positive_peak, positive_mass, positive_moment, positives, one, LEARNED
            )
            if not IS_SUM:
                positive_count += tl.sum(positive.to(tl.float32), 1)
                positive_sum += tl.sum(tl.where(positive, logits * factor[:, None], 0.0), 1)
            logits = tl.where(positive | ignored, float("-inf"), logits)
        negative_peak, negative_mass, negative_moment = _online_softmax(
            negative_peak, negative_mass, negative_moment, logits, factor, LEARNED
        )

    N, inside = query.count, rows < query.count
    at = fields_ptr + part.to(tl.int64) * FIELDS * N + rows
    tl.store(at, negative_peak + tl.log2(negative_mass), mask=inside)
    tl.store(at + N, positive_peak + tl.log2(positive_mass), mask=inside)
    # The best positive is the peak of the positives' log-sum-exp.
    tl.store(at + 2 * N, positive_peak, mask=inside)
    if not IS_SUM:
        tl.store(at + 3 * N, positive_count, mask=inside)
        tl.store(at + 4 * N, positive_sum, mask=inside)
    if LEARNED:
        # Any mass at all is at least 1.
        tl.store(at + 5 * N, negative_moment / tl.maximum(negative_mass, 1.0), mask=inside)
        tl.store(at + 6 * N, positive_moment / tl.maximum(positive_mass, 1.0), mask=inside)


@triton.jit
def _count_kernel(
    query, key, layout, flags, temperature, fields_ptr, num_parts, counts_ptr, part_length,
    D: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_OWN: tl.constexpr, BLOCK_OTHER: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Store counts[part, rows]: negatives above the row's best positive. Same tiles, same bits."""
    row, part = tl.program_id(0) * BLOCK_OWN, tl.program_id(1)
    rows = row + tl.arange(0, BLOCK_OWN)
    tile = load_tile(query, rows, 0, D, BLOCK_D)
    factor = row_factor(query, rows, temperature)
    inside = rows < query.count
    best = tl.full([BLOCK_OWN], float("-inf"), tl.float32)
    for other_part in range(num_parts):
        at = fields_ptr + (tl.cast(other_part, tl.int64) * FIELDS + 2) * query.count + rows
        best = tl.maximum(best, tl.load(at, mask=inside, other=float("inf")))
    count = tl.zeros([BLOCK_OWN], tl.int32)
    first, last = span_of_part(query, row, key, part_length, part, layout, BLOCK_OWN, BLOCK_OTHER)
    for start in tl.range(first, last, BLOCK_OTHER):
        columns = start + tl.arange(0, BLOCK_OTHER)
        logits = _logits(tile, query, rows, key, start, D, BLOCK_OTHER, BLOCK_D, PRECISION)
        if is_special(query, row, key, start, layout, flags, BLOCK_OWN, BLOCK_OTHER):
            positive, ignored = load_masks(query, rows, key, columns, layout)
            logits = tl.where(positive | ignored, float("-inf"), logits)
        count += tl.sum((logits * factor[:, None] > best[:, None]).to(tl.int32), 1)
    tl.store(counts_ptr + part.to(tl.int64) * query.count + rows, count, mask=inside)


def compute_partials(problem: Problem) -> Partials:
    """Launch once, and once before that for lengths and flags where they are wanted.

    As streaming.compute_partials, but the candidates come in parts.
    """
    settings, problem = problem.settings, laid_out(problem)
    prepared = _prepare(problem)
    grid, arguments, options = _plan(problem, prepared)
    fields = torch.empty(
        (grid[1], NUM_FIELDS, len(problem.query)), dtype=torch.float32, device=problem.query.device
    )
    _forward_kernel[grid](
        *arguments[:-1], fields, arguments[-1],
        LEARNED=settings.learned, IS_SUM=settings.positives == "sum", **options,
    )  # fmt: skip
    return Partials(fields, prepared)


def count_beaten(problem: Problem, prepared: Prepared, fields: Tensor) -> Tensor:
    """Launch once; as streaming.count_beaten, but [P, N]."""
    grid, arguments, options = _plan(laid_out(problem), prepared)
    counts = fields.new_empty((grid[1], fields.shape[2]), dtype=torch.int32)
    _count_kernel[grid](*arguments[:-1], fields, fields.shape[0], counts, arguments[-1], **options)
    return counts


def _plan(
    problem: Problem, prepared: Prepared
) -> tuple[tuple[int, int], tuple[Any, ...], dict[str, Any]]:
    """Return the grid of the forward, the arguments that its kernels share, and its tile."""
    query, key = sides_of(problem, prepared)
    dim = query.rows.shape[1]
    tile = forward_tile(query.rows.dtype, query.count, dim)
    num_blocks = triton.cdiv(query.count, tile.own)
    parts, part_length = split(query.rows.device, num_blocks, key.count, tile.other, 2)
    arguments = (
        query, key, problem.settings.layout, flags_of(prepared), temperature_of(problem),
        part_length,
    )  # fmt: skip
    return (
        (num_blocks, parts),
        arguments,
        tile.options(dim) | {"PRECISION": problem.settings.precision},
    )


def _prepare(problem: Problem) -> Prepared:
    """Launch at most once: 1 / lengths of the rows, and the flags of labels that are given."""
    query, normalize, own = problem.query, problem.settings.normalize, problem.key is None
    num_rows, num_columns = len(query), len(problem.columns)
    shape = flags_shape(num_rows, num_columns, by_place=problem.query_ids is None)
    prepared = Prepared(
        query.new_empty(num_rows if normalize else 0, dtype=torch.float32),
        query.new_empty(0 if own or not normalize else num_columns, dtype=torch.float32),
        query.new_empty(shape, dtype=torch.int8),
    )
    if normalize or prepared.flags.numel():
        query_side, key_side = sides_of(problem, prepared)
        dim = query_side.rows.shape[1]
        row_blocks = shape[0] or triton.cdiv(num_rows, 64)
        key_blocks = triton.cdiv(num_columns, 64) if prepared.key_scale.numel() else 0
        _prepare_kernel[(row_blocks + key_blocks, triton.cdiv(shape[1], 16) or 1)](
            query_side, key_side, problem.settings.layout, flags_of(prepared), row_blocks, 16,
            D=dim, BLOCK_D=min(block_of(dim), 64), num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
    return prepared
