"""Functions that the kernels of the contrastive softmax share; needs triton."""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

import triton
import triton.language as tl

from fastdual.kernels.contrastive.problem import NORM_FLOOR

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
FLOOR = tl.constexpr(NORM_FLOOR)
# Finite, so that a share of 0 times it is 0.
LOWEST = tl.constexpr(-3e38)


@triton.jit
def load_labels(labels_ptr, index, count, absent: tl.constexpr):
    """Return ids or groups as two int32 halves [BLOCK]; negative or past the end: `absent`.

    `absent` is a negative number that differs between the two sides, so that its high half equals
    nothing.
    """
    labels = tl.load(labels_ptr + index, mask=index < count, other=-1).to(tl.int64)
    low = tl.where(labels >= 0, labels.to(tl.int32), absent)
    high = tl.where(labels >= 0, (labels >> 32).to(tl.int32), absent)
    return low, high


@triton.jit
def load_ids(
    ids_ptr, index, count, absent: tl.constexpr, id_run, num_ids, LAYOUT: tl.constexpr
):  # fmt: skip
    """Return `load_labels` of ids; with a layout they are those of the rows' samples."""
    if LAYOUT:
        sample = (index // id_run) % num_ids
        if ids_ptr is not None:
            ids = tl.load(ids_ptr + sample, mask=index < count, other=-1).to(tl.int64)
        else:
            ids = tl.where(index < count, sample, -1).to(tl.int64)
        low = tl.where(ids >= 0, ids.to(tl.int32), absent)
        return low, tl.where(ids >= 0, (ids >> 32).to(tl.int32), absent)
    else:
        return load_labels(ids_ptr, index, count, absent)


@triton.jit
def load_groups(
    groups_ptr, index, count, absent: tl.constexpr, group_run, LAYOUT: tl.constexpr
):  # fmt: skip
    """Return `load_labels` of groups; with a layout they follow from the places of the rows."""
    if LAYOUT:
        low = tl.where(index < count, index // group_run, absent)
        return low, tl.where(index < count, 0, absent)
    else:
        return load_labels(groups_ptr, index, count, absent)


@triton.jit
def span_of_other_groups(
    start, stop, own_start, count, group_run, BLOCK_OWN: tl.constexpr, BLOCK: tl.constexpr
):
    """Return the part of [start, stop), in whole blocks, that can hold other groups than a block.

    A block of rows of the first group alone leaves that group out, and so does a block of the last:
    with two groups (CLIP's images and texts) that is half of the work.
    """
    group = own_start // group_run
    alone = group == (tl.minimum(own_start + BLOCK_OWN, count) - 1) // group_run
    after_first = tl.where(alone & (group == 0), group_run // BLOCK * BLOCK, start)
    last = (group + 1) * group_run >= count
    before_last = tl.where(alone & last, group * group_run, stop)
    return tl.maximum(start, after_first), tl.minimum(stop, before_last)


@triton.jit
def is_special(
    own_ids, own_groups, other_ids_ptr, other_groups_ptr, start, num_other,
    id_run, num_ids, group_run, LAYOUT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Return 1 if a tile may hold a positive, an ignored pair or the end, 0 for negatives only.

    Most tiles hold negatives only, and this is all that the masks cost them. Low halves may be
    equal by chance; `exact_masks` then finds nothing in the tile.
    """
    others = start + tl.arange(0, BLOCK)
    other_ids, ids_high = load_ids(other_ids_ptr, others, num_other, -2, id_run, num_ids, LAYOUT)
    near = own_ids[:, None] == other_ids[None, :]
    if LAYOUT or other_groups_ptr is not None:
        other_groups, groups_high = load_groups(
            other_groups_ptr, others, num_other, -2, group_run, LAYOUT
        )
        near = near | (own_groups[:, None] == other_groups[None, :])
    found = tl.max(tl.max(near.to(tl.int32), 1), 0)
    return tl.where(start + BLOCK > num_other, 1, found)


@triton.jit
def exact_masks(
    own_ids, own_ids_high, own_groups, own_groups_high,
    other_ids_ptr, other_groups_ptr, others, num_other,
    id_run, num_ids, group_run, LAYOUT: tl.constexpr,
):  # fmt: skip
    """Return positive pairs and ignored pairs [OWN, OTHER]; those past the end are ignored."""
    ids, ids_high = load_ids(other_ids_ptr, others, num_other, -2, id_run, num_ids, LAYOUT)
    positive = (own_ids[:, None] == ids[None, :]) & (own_ids_high[:, None] == ids_high[None, :])
    ignored = (own_ids[:, None] != own_ids[:, None]) | (others >= num_other)[None, :]
    if LAYOUT or other_groups_ptr is not None:
        groups, groups_high = load_groups(
            other_groups_ptr, others, num_other, -2, group_run, LAYOUT
        )
        ignored = ignored | (
            (own_groups[:, None] == groups[None, :])
            & (own_groups_high[:, None] == groups_high[None, :])
        )
    return positive & ~ignored, ignored


@triton.jit
def load_tile(x_ptr, index, dims, count, D, stride_row, stride_dim):
    """Return rows `index` and columns `dims` of embeddings, 0 outside of [count, D]."""
    offsets = index.to(tl.int64)[:, None] * stride_row + dims.to(tl.int64)[None, :] * stride_dim
    return tl.load(x_ptr + offsets, mask=(index < count)[:, None] & (dims < D)[None, :], other=0.0)


@triton.jit
def similarities(
    own, own_ptr, own_index, num_own, own_stride_row, own_stride_dim,
    other_ptr, other_index, num_other, other_stride_row, other_stride_dim, D,
    SQUARES: tl.constexpr, SINGLE: tl.constexpr, PRECISION: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Return dot products [OWN, OTHER], the other side's tile, and its squared lengths [OTHER].

    The lengths are right only if SQUARES. SINGLE: one tile spans all of D, and `own` is that tile
    of the own side, loaded once.
    """
    squares = tl.zeros([other_index.shape[0]], tl.float32)
    dims = tl.arange(0, BLOCK_D)
    if SINGLE:
        other = load_tile(
            other_ptr, other_index, dims, num_other, D, other_stride_row, other_stride_dim
        )
        products = tl.dot(own, tl.trans(other), input_precision=PRECISION)
        if SQUARES:
            wide = other.to(tl.float32)
            squares = tl.sum(wide * wide, 1)
    else:
        products = tl.zeros([own_index.shape[0], other_index.shape[0]], tl.float32)
        other = tl.zeros([other_index.shape[0], BLOCK_D], other_ptr.dtype.element_ty)
        for start in range(0, D, BLOCK_D):
            own_part = load_tile(
                own_ptr, own_index, start + dims, num_own, D, own_stride_row, own_stride_dim
            )
            other = load_tile(
                other_ptr, other_index, start + dims, num_other, D,
                other_stride_row, other_stride_dim,
            )  # fmt: skip
            products = tl.dot(own_part, tl.trans(other), products, input_precision=PRECISION)
            if SQUARES:
                wide = other.to(tl.float32)
                squares += tl.sum(wide * wide, 1)
    return products, other, squares


@triton.jit
def base2_scale(temperature_ptr, temperature_value, IS_SCALE: tl.constexpr):
    """Return log2(e) / temperature; IS_SCALE: the inverse was given as temperature."""
    if temperature_ptr is not None:
        temperature = tl.load(temperature_ptr).to(tl.float32)
    else:
        temperature = temperature_value
    if IS_SCALE:
        return LOG2_E * temperature
    else:
        return LOG2_E / temperature


@triton.jit
def length_scale(squares):
    """Return 1 / length."""
    return 1.0 / tl.maximum(tl.sqrt(squares), FLOOR)


@triton.jit
def base2_softplus(x):
    """Return log2(1 + 2^x) to full relative precision, even where 2^x is far below 1."""
    small = tl.exp2(-tl.abs(x))
    one_plus = 1.0 + small
    # log(1 + e) * e / ((1 + e) - 1) undoes the rounding of 1 + e (Kahan).
    rounded = tl.where(one_plus == 1.0, 1.0, one_plus - 1.0)
    log1p = tl.where(one_plus == 1.0, small * LOG2_E, tl.log2(one_plus) * small / rounded)
    return tl.maximum(x, 0.0) + log1p
