"""What the kernels of the contrastive softmax share: their arguments and steps; needs triton."""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from fastdual.kernels.contrastive.problem import NORM_FLOOR

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
FLOOR = tl.constexpr(NORM_FLOOR)
# Finite, so that a share of 0 times it is 0.
LOWEST = tl.constexpr(-3e38)
# Rows and columns that one flag is for; tiles are parts or multiples of it.
FLAG = tl.constexpr(64)


class Side(NamedTuple):
    """Rows or candidates, as a kernel is given them. Labels are those of samples under a layout."""

    rows: Tensor  # [count, D], rows contiguous, D a multiple of 16
    stride: int
    count: int  # type: ignore[assignment]  # a tuple's own count is not used
    scale: Tensor | None  # [count] 1 / length, where rows are normalised
    ids: Tensor | None
    groups: Tensor | None


class Flags(NamedTuple):
    """Which blocks of FLAG x FLAG pairs hold a positive or an ignored pair; int8."""

    blocks: Tensor
    own_stride: int
    other_stride: int


class Temperature(NamedTuple):
    """The divisor of the logits: a 0-d tensor, else the number. Inverted: it is a factor."""

    tensor: Tensor | None
    number: float
    inverted: int


@triton.jit
def load_tile(side, index, start, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Return columns from `start` of rows `index`; past the end, of the last row."""
    index = tl.minimum(index, side.count - 1)
    dims = start + tl.arange(0, BLOCK_D)
    at = side.rows + index.to(tl.int64)[:, None] * side.stride + dims[None, :]
    if D % BLOCK_D == 0:
        return tl.load(at)
    else:
        return tl.load(at, mask=(dims < D)[None, :], other=0.0)


@triton.jit
def load_row(pointer, index, count):
    """Return one number of each row `index`; 0 past the end."""
    return tl.load(pointer + index, mask=index < count, other=0.0).to(tl.float32)


@triton.jit
def load_labels(side, index, layout, ABSENT: tl.constexpr):
    """Return ids and groups, int64; ABSENT, below 0, where they are negative or past the end."""
    inside = index < side.count
    sample = index // layout.id_run % layout.num_ids if layout is not None else index
    if side.ids is not None:
        ids = tl.load(side.ids + sample, mask=inside, other=-1).to(tl.int64)
    else:
        ids = sample.to(tl.int64)
    if layout is not None:
        groups = (index // layout.group_run).to(tl.int64)
    elif side.groups is not None:
        groups = tl.load(side.groups + index, mask=inside, other=-1).to(tl.int64)
    else:
        groups = tl.full(index.shape, -1, tl.int64)
    return (
        tl.where(inside & (ids >= 0), ids, ABSENT),
        tl.where(inside & (groups >= 0), groups, ABSENT),
    )


@triton.jit
def load_masks(own, index, other, others, layout):
    """Return positive and ignored pairs [OWN, OTHER]; those past the other's end are ignored."""
    ids, groups = load_labels(own, index, layout, -1)
    other_ids, other_groups = load_labels(other, others, layout, -2)
    ignored = (groups[:, None] == other_groups[None, :]) | (others >= other.count)[None, :]
    return (ids[:, None] == other_ids[None, :]) & ~ignored, ignored


@triton.jit
def is_special(
    own, own_start, other, start, layout, flags, BLOCK_OWN: tl.constexpr, BLOCK_OTHER: tl.constexpr
):
    """Return whether a tile may hold a positive, an ignored pair or the end of the other side.

    Most tiles hold negatives alone, and this is all that labels cost them. Where labels follow from
    places, the answer follows from the first and the last row of either side.
    """
    if flags is not None:
        at = flags.blocks + own_start // FLAG * flags.own_stride
        at += start // FLAG * flags.other_stride
        meets = tl.load(at).to(tl.int32)
        for block in tl.static_range(1, (BLOCK_OWN + FLAG - 1) // FLAG):
            meets |= tl.load(at + block * flags.own_stride).to(tl.int32)
        found = meets != 0
    elif layout is None or own.ids is not None:
        found = own_start >= 0  # few logits: masks everywhere
    else:
        own_last = tl.minimum(own_start + BLOCK_OWN, own.count) - 1
        last = tl.minimum(start + BLOCK_OTHER, other.count) - 1
        group = (own_start // layout.group_run <= last // layout.group_run) & (
            start // layout.group_run <= own_last // layout.group_run
        )
        # Runs of one id that lie a multiple of num_ids apart: is one between low and high?
        high = last // layout.id_run - own_start // layout.id_run
        low = start // layout.id_run - own_last // layout.id_run
        above = (own.count // (layout.id_run * layout.num_ids) + 1) * layout.num_ids
        past = (high + above) % layout.num_ids  # of a multiple; `above` keeps `%` from below 0
        found = group | (past <= high - low)
    return found | (start + BLOCK_OTHER > other.count)


@triton.jit
def span_of_part(
    own, own_start, other, part_length, part, layout,
    BLOCK_OWN: tl.constexpr, BLOCK_OTHER: tl.constexpr,
):  # fmt: skip
    """Return where a part of the other side begins and ends, in whole blocks.

    A block of rows of the first group alone leaves that group out, and so does a block of the last:
    with two groups (CLIP's images and texts) that is half of the work.
    """
    first = part * part_length
    last = tl.minimum(first + part_length, other.count)
    if layout is not None:
        run = layout.group_run
        group = own_start // run
        alone = group == (tl.minimum(own_start + BLOCK_OWN, own.count) - 1) // run
        first = tl.maximum(
            first, tl.where(alone & (group == 0), run // BLOCK_OTHER * BLOCK_OTHER, 0)
        )
        last_group = alone & ((group + 1) * run >= other.count)
        last = tl.minimum(last, tl.where(last_group, group * run, other.count))
    return first, last


@triton.jit
def similarities(
    tile, own, index, other, others,
    D: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Return dot products [OWN, OTHER], and the tile of the other side where one spans all of D.

    `tile` is that of the own side, used where one spans all of D.
    """
    other_tile = load_tile(other, others, 0, D, BLOCK_D)
    if D <= BLOCK_D:
        products = tl.dot(tile, tl.trans(other_tile), input_precision=PRECISION)
    else:
        products = tl.zeros([index.shape[0], others.shape[0]], tl.float32)
        for start in range(0, D, BLOCK_D):
            products = tl.dot(
                load_tile(own, index, start, D, BLOCK_D),
                tl.trans(load_tile(other, others, start, D, BLOCK_D)),
                products,
                input_precision=PRECISION,
            )
    return products, other_tile


@triton.jit
def base2_scale(temperature):
    """Return log2(e) / temperature."""
    if temperature.tensor is not None:
        value = tl.load(temperature.tensor).to(tl.float32)
    else:
        value = temperature.number
    return LOG2_E * tl.where(temperature.inverted != 0, value, 1.0 / value)


@triton.jit
def row_factor(own, index, temperature):
    """Return what multiplies the products of each own row: log2(e) / temperature / length."""
    factor = tl.zeros(index.shape, tl.float32) + base2_scale(temperature)
    if own.scale is not None:
        factor *= load_row(own.scale, index, own.count)
    return factor


@triton.jit
def base2_softplus(x):
    """Return log2(1 + 2^x) to full relative precision, even where 2^x is far below 1."""
    small = tl.exp2(-tl.abs(x))
    one_plus = 1.0 + small
    # log(1 + e) * e / ((1 + e) - 1) undoes the rounding of 1 + e (Kahan).
    rounded = tl.where(one_plus == 1.0, 1.0, one_plus - 1.0)
    log1p = tl.where(one_plus == 1.0, small * LOG2_E, tl.log2(one_plus) * small / rounded)
    return tl.maximum(x, 0.0) + log1p
